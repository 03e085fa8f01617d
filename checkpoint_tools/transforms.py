"""Two-way table entries: how tensors of a Hugging Face layout and of the Megatron layout become each other.

An entry knows names and formats of whole tensors, nothing of ranks: sharding is the loader's work. `{layer}`
in a name stands for the layer number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from genrecal_mcore.config import LanguageBodySpec

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One Megatron tensor and the Hugging Face tensors that it is made of."""

    mcore: str
    hf: tuple[str, ...]
    merge: Callable[[Tensors, LanguageBodySpec, torch.Tensor | None], torch.Tensor]
    """Hugging Face tensors, in the order of `hf` -> Megatron tensor, in the third argument's memory if given.
    """
    split: Callable[[torch.Tensor, LanguageBodySpec], Tensors]
    """The way back, bit for bit."""

    def at_layer(self, layer: int) -> "Entry":
        """Return the entry with `{layer}` filled in."""
        return Entry(
            mcore=self.mcore.format(layer=layer),
            hf=tuple(name.format(layer=layer) for name in self.hf),
            merge=self.merge,
            split=self.split,
        )


def rename(mcore: str, hf: str) -> Entry:
    """Return an entry for a tensor that only changes its name."""
    return Entry(
        mcore=mcore, hf=(hf,), merge=lambda tensors, _, __: tensors[0], split=lambda tensor, _: (tensor,)
    )


def fuse_gate_up(mcore: str, gate: str, up: str) -> Entry:
    """Return an entry that stacks gate and up `[f, h]` into `linear_fc1` `[2 f, h]`."""
    return Entry(
        mcore=mcore,
        hf=(gate, up),
        merge=lambda tensors, _, out: torch.cat(list(tensors), out=out),
        split=lambda tensor, _: tensor.chunk(2),
    )


def fuse_qkv(mcore: str, query: str, key: str, value: str) -> Entry:
    """Return an entry that interleaves q, k, v by query group, as `linear_qkv` wants it, weight or bias."""
    return Entry(mcore=mcore, hf=(query, key, value), merge=merge_qkv, split=split_qkv)


def merge_qkv(tensors: Tensors, spec: LanguageBodySpec, out: torch.Tensor | None) -> torch.Tensor:
    """Interleave q `[n d, ...]`, k and v `[n_kv d, ...]`: for each group its query heads, then its key, its
    value.
    """
    groups, *parts = (spec.num_query_groups, *tensors)
    shape = (groups, -1, spec.head_dim)
    by_group = None if out is None else out.unflatten(0, shape)
    return torch.cat([part.unflatten(0, shape) for part in parts], dim=1, out=by_group).flatten(0, 2)


def split_qkv(tensor: torch.Tensor, spec: LanguageBodySpec) -> Tensors:
    """Undo `merge_qkv`."""
    groups = tensor.unflatten(0, (spec.num_query_groups, -1, spec.head_dim))
    per_group = spec.num_attention_heads // spec.num_query_groups
    return [part.flatten(0, 2) for part in groups.split((per_group, 1, 1), dim=1)]
