"""The nouns of the data room: a sample, the sample as one model sees it, a microbatch.

Nothing here knows a family, a tokenizer or a process group.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

Change = Callable[[torch.Tensor], torch.Tensor]
TextEnds = tuple[int, ...] | None
"""For each token of an answer the bytes of its text that end there or before, one more at the end-of-turn
token; None where that is not known (see `data.text_ends`).
"""

AnswerSpan = tuple[int, int]
"""Half-open token range `[start, end)` of one answer: its text plus the end-of-turn token."""
IMAGE_PLACEHOLDER = "<image>"
"""Stands in a question where an image stands."""


class BrokenSample(ValueError):
    """A sample that cannot be learnt from; the text is the reason, as it is listed in `skipped.jsonl`."""


class SampleImage(Protocol):
    """An image that is not read before it is needed: a file, or bytes in one. Its text names it to people."""

    @property
    def name(self) -> str:
        """What the record calls it: the same on every machine."""

    def open(self) -> Path | BinaryIO:
        """Return what an image is decoded from."""

    def __hash__(self) -> int:
        """Tell images apart by where they lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One question and its answer, as text, with `IMAGE_PLACEHOLDER` for each image."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One conversation about zero or more images."""

    id: str
    images: tuple[SampleImage, ...]
    turns: tuple[Turn, ...]
    source: str
    domain: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedSample:
    """One sample in the tokens of one model, without pixels.

    The sequence ends with the last answer's end-of-turn token: what follows would be read by nobody.
    """

    sample_id: str
    input_ids: torch.Tensor
    """`[s]` int64."""
    position_ids: torch.Tensor
    """`[s]` int64, or `[3, s]` for M-RoPE."""
    answer_spans: tuple[AnswerSpan, ...]
    features_per_item: tuple[int, ...]
    """Image tokens that each vision item (tile or image) fills, in order of appearance."""
    text_ends: tuple[TextEnds, ...] | None = None
    """Of each answer; None where the processor was not asked for them."""

    @property
    def num_answer_tokens(self) -> int:
        """Label-bearing tokens: every answer token is predicted once."""
        return sum(end - start for start, end in self.answer_spans)


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionInputs:
    """Pixels of a microbatch for one vision tower."""

    pixel_values: torch.Tensor
    """InternVL: `[num_tiles, 3, height, width]`; Qwen2-VL: `[num_patches, patch_size]`, images one after
    another.
    """
    image_grid_thw: torch.Tensor | None
    """Qwen2-VL: `[num_images, 3]` patches in time, height, width; otherwise None."""
    features_per_item: tuple[int, ...]
    """Image tokens that each tile (InternVL) or image (Qwen2-VL) yields."""

    def map(self, change: Change) -> "VisionInputs":
        """Return the same pixels with each tensor as `change` returns it."""
        grid = change(self.image_grid_thw) if self.image_grid_thw is not None else None
        return replace(self, pixel_values=change(self.pixel_values), image_grid_thw=grid)


@dataclass(frozen=True, kw_only=True, slots=True)
class Microbatch:
    """Several rendered samples of one model, packed into one sequence: no token of it is padding.

    Only where the sequence must be a multiple of something, the rest follows as one more sequence that nobody
    reads.
    """

    sample_ids: tuple[str, ...]
    input_ids: torch.Tensor
    """`[1, t]` int64."""
    position_ids: torch.Tensor
    """`[1, t]`, or `[3, 1, t]` for M-RoPE; each sample's begin at 0."""
    lengths: tuple[int, ...]
    """Tokens of each sample; with the rest, they add up to t."""
    answer_spans: tuple[tuple[AnswerSpan, ...], ...]
    vision: VisionInputs | None
    """None where no rank of this role looks at pixels, or no sample has an image."""
    text_ends: tuple[tuple[TextEnds, ...], ...] | None = None
    """Of each sample's answers; None where the processor was not asked for them."""

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where each sequence begins, and t: what may attend to what."""
        bounds = (0, *accumulate(self.lengths))
        rest = self.input_ids.shape[1] - bounds[-1]
        return (*bounds, bounds[-1] + rest) if rest else bounds

    def to(self, device: torch.device) -> "Microbatch":
        """Return the same microbatch with its tensors on `device`; from pinned memory the host goes on while
        they are copied.
        """
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Microbatch":
        """Return the same microbatch in page-locked memory, from which a GPU copies by itself."""
        return self.map(torch.Tensor.pin_memory)

    def map(self, change: Change) -> "Microbatch":
        """Return the same microbatch with each tensor as `change` returns it."""
        return replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            vision=self.vision.map(change) if self.vision else None,
        )
