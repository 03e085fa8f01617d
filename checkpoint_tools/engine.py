"""Plans a conversion: every tensor is accounted for, by name and shape, before one is written."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from checkpoint_tools.decoder import decoder_entries
from checkpoint_tools.transforms import Entry
from genrecal_mcore.config import LanguageBodySpec
from genrecal_mcore.layouts import Checkpoint
from genrecal_mcore.native import native_shapes

HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
LANGUAGE_PREFIX = "model.language_model."


class Source(Protocol):
    """Anything that knows and gives tensors by their names."""

    def read(self, key: str) -> torch.Tensor:
        """Return the tensor."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the tensor's shape without reading it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionPlan:
    """Which native tensors become what."""

    checkpoint: Checkpoint
    spec: LanguageBodySpec
    entries: tuple[Entry, ...]
    """Of the language body."""
    vision: tuple[str, ...]
    """Native names of tower and projector."""
    head: str
    """Native name of the head, or of the embedding that it is tied to."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Native names of all tensors, a tied head left out."""
        body = [name for entry in self.entries for name in entry.hf]
        return tuple([*body, *self.vision] + [HEAD] * (self.head == HEAD))


def plan_conversion(checkpoint: Checkpoint) -> ConversionPlan:
    """Match every tensor of a checkpoint with the class that its config describes, and with Megatron's names.

    Raises `ValueError` listing what is missing, unknown or of another shape, under the names in the files.
    """
    spec = checkpoint.spec
    expected = native_shapes(checkpoint.config, checkpoint.family)
    check_names_and_shapes(checkpoint, expected)
    entries = tuple(decoder_entries(spec))
    in_body = {name for entry in entries for name in entry.hf}
    strange = sorted(name for name in expected if name.startswith(LANGUAGE_PREFIX) and name not in in_body)
    if strange:
        raise ValueError(f"the language body has tensors that no entry converts: {_listed('', strange)}")
    vision = tuple(sorted(expected.keys() - in_body - {HEAD}))
    head = EMBEDDING if spec.tied_embeddings else HEAD
    if spec.tied_embeddings and HEAD in checkpoint.holder:
        _check_tied_head(checkpoint)
    return ConversionPlan(checkpoint=checkpoint, spec=spec, entries=entries, vision=vision, head=head)


def check_names_and_shapes(checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise one `ValueError` with everything in which a checkpoint's headers differ from `expected`."""
    tied = {HEAD} if checkpoint.spec.tied_embeddings else set()
    found = checkpoint.holder.keys() - (tied - expected.keys())
    missing = sorted({_in_files(checkpoint, key) for key in expected.keys() - found})
    unknown = sorted({checkpoint.published_name(key) for key in found - expected.keys()})
    unknown += checkpoint.unknown
    wrong = []
    for key in sorted(expected.keys() & found):
        shape = checkpoint.shape(key)
        if shape != expected[key]:
            wrong.append(f"{checkpoint.published_name(key)} {shape} instead of {expected[key]}")
    if missing or unknown or wrong:
        raise ValueError(
            f"{checkpoint.folder.path} does not fit its config.json, {checkpoint.family.value} with "
            f"{checkpoint.spec.num_layers} layers: {_listed('missing', missing)}; "
            f"{_listed('unknown', unknown)}; {_listed('of another shape', wrong)}"
        )


def _in_files(checkpoint: Checkpoint, key: str) -> str:
    """Return the name that a tensor which is not there would have in the files."""
    found = checkpoint.layout.row_of_native(key)
    return found[1] if found else key


def _check_tied_head(checkpoint: Checkpoint) -> None:
    if not torch.equal(checkpoint.read(HEAD), checkpoint.read(EMBEDDING)):
        raise ValueError(
            f"config.json says tie_word_embeddings, but {checkpoint.published_name(HEAD)} differs from "
            f"{checkpoint.published_name(EMBEDDING)}; set tie_word_embeddings to false in config.json if the "
            "file is right"
        )


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


class Merger:
    """Reads Megatron tensors of the language body; merged ones take turns in two pieces of memory.

    A tensor is therefore good until the second merged one after it. Fresh memory for each would cost as much
    as reading it: the kernel clears every page of it.
    """

    def __init__(self, plan: ConversionPlan) -> None:
        self.plan = plan
        self.entry_of = {entry.mcore: entry for entry in plan.entries}
        self.used, self.free = torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor by its Megatron name."""
        entry = self.entry_of[name]
        parts = [self.plan.checkpoint.read(name) for name in entry.hf]
        if len(parts) == 1 or len({part.dtype for part in parts}) > 1:
            return entry.merge(parts, self.plan.spec, None)
        out = self._memory(merged_shape(entry, self.plan), parts[0].dtype)
        return entry.merge(parts, self.plan.spec, out)

    def forget(self) -> None:
        """Give the memory back."""
        self.used = self.free = torch.empty(0, dtype=torch.uint8)

    def _memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.used, self.free = self.free, self.used
        num_bytes = math.prod(shape) * dtype.itemsize
        if self.used.numel() < num_bytes:
            self.used = torch.empty(num_bytes, dtype=torch.uint8)
        return self.used[:num_bytes].view(dtype).reshape(shape)


def merged_shape(entry: Entry, plan: ConversionPlan) -> tuple[int, ...]:
    """Return the shape of one Megatron tensor without reading anything."""
    parts = [torch.empty(plan.checkpoint.shape(name), device="meta") for name in entry.hf]
    return tuple(entry.merge(parts, plan.spec, None).shape)


class TeacherTensors:
    """The native tensors of a converted teacher: what a conversion did, undone tensor by tensor."""

    def __init__(self, spec: LanguageBodySpec, *, language: Source, vision: Source, head: Source) -> None:
        self.spec = spec
        self.language, self.vision, self.head = language, vision, head
        self.entry_of = {
            name: (entry, part) for entry in decoder_entries(spec) for part, name in enumerate(entry.hf)
        }
        self._last: tuple[str, torch.Tensor] | None = None

    def read(self, key: str) -> torch.Tensor:
        """Return a native tensor; raises `ValueError` when the teacher lacks it."""
        if key == HEAD:
            return self.head.read("weight")
        if key not in self.entry_of:
            return self.vision.read(key.removeprefix("model."))
        entry, part = self.entry_of[key]
        if self._last is None or self._last[0] != entry.mcore:
            self._last = (entry.mcore, self.language.read(entry.mcore))
        return entry.split(self._last[1], self.spec)[part]

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a native tensor's shape without reading it."""
        if key == HEAD:
            return self.head.shape("weight")
        if key not in self.entry_of:
            return self.vision.shape(key.removeprefix("model."))
        entry, part = self.entry_of[key]
        whole = torch.empty(self.language.shape(entry.mcore), device="meta")
        return tuple(entry.split(whole, self.spec)[part].shape)

    def body_names(self) -> Iterator[str]:
        """Yield the native names of the language body."""
        yield from self.entry_of


class OnMeta:
    """The same tensors without their values."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def read(self, key: str) -> torch.Tensor:
        """Return an empty tensor of the right shape on the meta device."""
        return torch.empty(self.source.shape(key), device="meta")
