"""Reads this rank's slices of `language/` without a word to any other rank.

megatron's own `dist_checkpointing.load` is collective over the world, where the student ranks have nothing to
load. Each tensor's `ShardedTensor` record says which slice of the stored tensor it is; torch's distributed
checkpoint reader fetches exactly those bytes.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch.distributed.checkpoint.metadata import (
    STATE_DICT_TYPE,
    ChunkStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list


class ShardedTensorLoadPlanner(LoadPlanner):
    """Plans reads of slices of whole stored tensors into local tensors.

    Vocabulary rows that padding to tp added lie outside the stored tensor and are set to zero.
    """

    def __init__(self, shards: list[ShardedTensor]) -> None:
        self.shards = shards

    def set_up_planner(
        self, state_dict: STATE_DICT_TYPE, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Remember what is stored."""
        del state_dict, is_coordinator
        assert metadata is not None
        self.stored = metadata.state_dict_metadata

    def create_local_plan(self) -> LoadPlan:
        """List the reads; raises `ValueError` naming keys that are missing or whose shape contradicts the
        model.
        """
        items: list[ReadItem] = []
        for number, shard in enumerate(self.shards):
            stored = self.stored.get(shard.key)
            if not isinstance(stored, TensorStorageMetadata):
                raise ValueError(f"the teacher checkpoint lacks the tensor {shard.key}; convert it again")
            items += self._reads_of(number, shard, stored)
        return LoadPlan(items)

    def _reads_of(self, number: int, shard: ShardedTensor, stored: TensorStorageMetadata) -> list[ReadItem]:
        if tuple(stored.size) != shard.global_shape and not shard.allow_shape_mismatch:
            raise ValueError(
                f"the teacher checkpoint holds {shard.key} with shape {tuple(stored.size)}, "
                f"but teacher.json describes {shard.global_shape}; convert it again"
            )
        assert shard.data is not None
        sizes = [
            max(0, min(local, whole - start))
            for local, whole, start in zip(shard.local_shape, stored.size, shard.global_offset, strict=True)
        ]
        if sizes != list(shard.local_shape):
            shard.data.zero_()
        if 0 in sizes:
            return []
        chunk = ChunkStorageMetadata(torch.Size(shard.global_offset), torch.Size(sizes))
        reads = create_read_items_for_chunk_list(shard.key, stored, [chunk])
        # Several shards may share a key (gate and up of one fc1): the number finds the right one again.
        return [
            dataclasses.replace(read, dest_index=dataclasses.replace(read.dest_index, index=number))
            for read in reads
        ]

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Leave the plan alone: nothing is shared between ranks."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Leave the plan alone."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Refuse: only tensors are stored."""
        raise RuntimeError(f"{read_item.storage_index.fqn} is {type(value).__name__}, not a tensor")

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Return the view of the local tensor that a read fills."""
        assert read_item.dest_index.index is not None
        target = self.shards[read_item.dest_index.index].data
        assert target is not None
        view = target.detach()
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            view = view.narrow(dim, start, length)
        return view

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Do nothing: the read wrote into the view."""


def load_language_body(sharded_state_dict: Mapping[str, Any], folder: Path) -> None:
    """Fill the tensors that a `sharded_state_dict` describes from `folder` (a `language/` folder).

    Raises `ValueError` when a tensor is missing or has another shape, naming it.
    """
    dcp.load(
        {},
        storage_reader=dcp.FileSystemReader(folder),
        planner=ShardedTensorLoadPlanner(shards_of(sharded_state_dict)),
        no_dist=True,
    )


def shards_of(sharded_state_dict: Mapping[str, Any]) -> list[ShardedTensor]:
    """Return the slices of stored tensors that a `sharded_state_dict` describes."""
    state = dict(sharded_state_dict)
    apply_factories(state)
    return [leaf for leaf in _leaves(state) if isinstance(leaf, ShardedTensor)]


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        return [leaf for value in tree.values() for leaf in _leaves(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in _leaves(value)]
    return [tree]
