"""The nouns of the evaluation room: a question, where its images lie, an answer.

Every file format becomes these; nothing here knows a benchmark, a model or a format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genrecal_mcore.data import SampleImage, Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPlace:
    """Where a row lies in a TSV file, and which of its fields holds the images."""

    offset: int
    """Bytes before the row."""
    num_bytes: int
    column: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInRow:
    """Where one image lies in a TSV file: in a field of a row, in base64."""

    file: Path
    row: RowPlace
    position: int = 0
    """Among the images of the row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question to a model, with what is needed to score the answer."""

    index: str
    """Its name in the benchmark's file; no other question there has it."""
    number: int
    """Row or record of the file, counted from 1."""
    turns: tuple[Turn, ...]
    """What is asked last, and the turns before it with their true answers; `<image>` marks an image."""
    images: tuple[SampleImage | ImageInRow, ...]
    """In the order in which the turns name them."""
    answer: str | None
    """The true answer; None where the file keeps it to itself."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Text of each option by its letter; empty for an open question."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The file's other columns, without empty ones."""
    groups: tuple[tuple[str, str], ...] = ()
    """(column, value) pairs under which the question counts, besides all."""
    rotation_of: str | None = None
    """Where options are asked in every rotation: the index of the unrotated question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A row that is not asked, and why."""

    index: str
    """Empty where the row does not say it."""
    number: int
    reason: str
    rotation_of: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model said."""

    text: str
    is_cut: bool
    """Whether it had not ended when the last token allowed was there."""
