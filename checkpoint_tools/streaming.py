"""Writes checkpoints larger than memory, tensor by tensor, in pieces.

A piece is one file: `torch_dist`, torch's distributed format, for the language body, safetensors otherwise.
"""

import json
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo, _StoragePrefix
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.storage import WriteResult

Read = Callable[[str], torch.Tensor]
Advance = Callable[[int], None]

SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor before it is there."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the tensor's content."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def cut_into_pieces(specs: Sequence[TensorSpec], *, max_bytes: int) -> list[tuple[TensorSpec, ...]]:
    """Cut tensors, in order, into pieces of at most `max_bytes`; a larger tensor has a piece of its own."""
    pieces: list[list[TensorSpec]] = []
    room = 0
    for spec in specs:
        if not pieces or spec.num_bytes > room:
            pieces.append([])
            room = max_bytes
        pieces[-1].append(spec)
        room -= spec.num_bytes
    return [tuple(piece) for piece in pieces]


@contextmanager
def reading_ahead(read: Read, names: Sequence[str]) -> Iterator[Read]:
    """Give a `read` for `names` in their order; a thread reads the next one while the last is written."""
    upcoming = iter(names)
    with ThreadPoolExecutor(max_workers=1) as thread:
        reading: deque[tuple[str, Future[torch.Tensor]]] = deque()

        def begin_next() -> None:
            name = next(upcoming, None)
            if name is not None:
                reading.append((name, thread.submit(read, name)))

        def take(name: str) -> torch.Tensor:
            expected, future = reading.popleft()
            assert name == expected, f"{name} was asked for, {expected} is next"
            tensor = future.result()
            begin_next()
            return tensor

        begin_next()
        yield take


def write_safetensors(path: Path, piece: Sequence[TensorSpec], read: Read, advance: Advance) -> None:
    """Write one safetensors file, a tensor at a time.

    Source: the format's description in the safetensors README: length of the header, header, contents.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in piece:
        end = offset + spec.num_bytes
        header[spec.name] = {
            "dtype": SAFETENSORS_DTYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for spec in piece:
            tensor = _as_specified(read(spec.name), spec)
            file.write(memoryview(tensor.view(torch.uint8).reshape(-1).numpy()))
            advance(spec.num_bytes)


def _as_specified(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    assert tuple(tensor.shape) == spec.shape, f"{spec.name}: {tuple(tensor.shape)} instead of {spec.shape}"
    return tensor.to(spec.dtype).contiguous()


class _LazyPlanner(dcp.DefaultSavePlanner):
    """Reads a tensor when the writer comes to it; the state dict holds meta tensors."""

    def __init__(self, piece: Sequence[TensorSpec], read: Read, advance: Advance) -> None:
        super().__init__()
        self.spec_of = {spec.name: spec for spec in piece}
        self.read, self.advance = read, advance
        meta = {s.name: torch.empty(s.shape, dtype=s.dtype, device="meta") for s in piece}
        self.set_up_planner(meta, is_coordinator=True)

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        spec = self.spec_of[write_item.index.fqn]
        tensor = _as_specified(self.read(spec.name), spec)
        self.advance(spec.num_bytes)
        return tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a written `torch_dist` piece; goes to disk as JSON, never as a pickle."""

    name: str
    file: str
    offset: int
    length: int


def write_language_piece(
    folder: Path, number: int, piece: Sequence[TensorSpec], read: Read, advance: Advance
) -> list[StoredTensor]:
    """Write one file of a `torch_dist` checkpoint; say where each tensor lies in it."""
    planner = _LazyPlanner(piece, read, advance)
    writer = _writer(folder)
    plan = _local_plan(planner, number)
    # The sum would cost as much as the copy; teacher.json holds a digest of every file.
    computes_crc32 = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        results = writer.write_data(plan, planner).wait()
    finally:
        torch.serialization.set_crc32_options(computes_crc32)
    return [
        StoredTensor(
            name=result.index.fqn,
            file=result.storage_data.relative_path,
            offset=result.storage_data.offset,
            length=result.storage_data.length,
        )
        for result in results
    ]


def finish_language(
    folder: Path, pieces: Sequence[Sequence[TensorSpec]], stored: Sequence[StoredTensor]
) -> None:
    """Write the `.metadata` that makes the pieces one checkpoint."""
    at = {tensor.name: tensor for tensor in stored}
    planners = [_LazyPlanner(piece, _never, lambda _: None) for piece in pieces]
    plans = [_local_plan(planner, number) for number, planner in enumerate(planners)]
    _, metadata = planners[0].create_global_plan(plans)
    results = [list(_results(plan, at)) for plan in plans]
    _writer(folder).finish(metadata, results)


def _never(key: str) -> torch.Tensor:
    raise AssertionError(f"{key} is written already")


def _results(plan: SavePlan, at: dict[str, StoredTensor]) -> Iterator[WriteResult]:
    for item in plan.items:
        tensor = at[item.index.fqn]
        # Interned, or the pickle would tell names that were read from a marker from those that were not.
        info = _StorageInfo(sys.intern(tensor.file), tensor.offset, tensor.length)
        yield WriteResult(index=item.index, size_in_bytes=tensor.length, storage_data=info)


class _Writer(dcp.FileSystemWriter):
    """Keeps the folder's path and a random id out of `.metadata`: a source always gives the same bytes."""

    def storage_meta(self) -> None:
        return None


def _writer(folder: Path) -> dcp.FileSystemWriter:
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever finishes a piece waits for the disk. Nothing is copied ahead: where there is a GPU, the writer
    # would otherwise sort the tensors and hold several, whose memory is used again.
    writer = _Writer(folder, sync_files=False, per_thread_copy_ahead=0)
    writer.set_up_storage_writer(is_coordinator=True)
    return writer


def _local_plan(planner: _LazyPlanner, number: int) -> SavePlan:
    """Return a piece's plan, whose file is `__{number}_0.distcp`."""
    plan = planner.create_local_plan()
    return SavePlan(
        items=plan.items, storage_data=_StoragePrefix(f"__{number}_"), planner_data=plan.planner_data
    )
