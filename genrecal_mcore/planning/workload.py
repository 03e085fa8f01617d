"""How large samples are, in both models' tokens: drawn around means, or those of an index; and units of them.

Pure numbers: no text, no pixels.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from genrecal_mcore.data.order import BatchShape, cut_into_units

SPREAD = 0.5
"""Drawn samples have between 1 - SPREAD and 1 + SPREAD times the mean tokens, all equally likely."""
QUESTION_TEXT_TOKENS = 128
"""Tokens of the chat header and the question's text; what is left beside them and the answer is an image."""


def longest_drawn(mean_tokens: int) -> int:
    """Return the most tokens of a sample that is drawn around a mean."""
    return math.ceil((1 + SPREAD) * mean_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSize:
    """A sample in one model's tokens."""

    tokens: int
    """Image tokens included."""
    answer_tokens: int
    num_answers: int = 1
    features_per_item: tuple[int, ...] = ()
    """Image tokens of each tile or image, as in `data.RenderedSample`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedSize:
    """A sample in both models' tokens."""

    teacher: SampleSize
    student: SampleSize

    @property
    def longest(self) -> int:
        """Tokens in the tokenizer that needs more: what samples are dealt out by."""
        return max(self.teacher.tokens, self.student.tokens)


@dataclass(frozen=True, kw_only=True)
class UnitSize:
    """The samples of one unit of work, and the sums that costs depend on."""

    samples: tuple[PairedSize, ...]

    @cached_property
    def teacher(self) -> "PackedSize":
        """In the teacher's tokens."""
        return PackedSize.of([sample.teacher for sample in self.samples])

    @cached_property
    def student(self) -> "PackedSize":
        """In the student's tokens."""
        return PackedSize.of([sample.student for sample in self.samples])

    @cached_property
    def recalibrated(self) -> "PackedSize":
        """The student path of the Recalibrator: the student's questions, the teacher's answers."""
        return self._path([s.student.tokens - s.student.answer_tokens for s in self.samples])

    @cached_property
    def recalibrated_with_own(self) -> "PackedSize":
        """The same with the student's own answers among the teacher's."""
        return self._path([s.student.tokens for s in self.samples])

    def _path(self, student_rows: Sequence[int]) -> "PackedSize":
        """Return a path of so many of the student's rows a sample, and the teacher's answers."""
        answers = [sample.teacher.answer_tokens for sample in self.samples]
        return PackedSize.of(
            [
                SampleSize(tokens=rows + answer, answer_tokens=answer)
                for rows, answer in zip(student_rows, answers, strict=True)
            ]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedSize:
    """Several samples packed into one sequence."""

    num_samples: int
    tokens: int
    answer_tokens: int
    boundary_rows: int
    """Last question positions, one an answer."""
    causal_pairs: int
    """Pairs of a position and one that it attends to, itself included."""
    features_per_item: tuple[int, ...]

    @classmethod
    def of(cls, samples: Sequence[SampleSize]) -> "PackedSize":
        """Return the sums over samples."""
        return cls(
            num_samples=len(samples),
            tokens=sum(sample.tokens for sample in samples),
            answer_tokens=sum(sample.answer_tokens for sample in samples),
            boundary_rows=sum(sample.num_answers for sample in samples),
            causal_pairs=sum(sample.tokens * (sample.tokens + 1) // 2 for sample in samples),
            features_per_item=tuple(item for sample in samples for item in sample.features_per_item),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A data set by its means."""

    samples: int
    teacher_tokens: int
    """Of a sample, image tokens included."""
    student_tokens: int
    answer_tokens: int
    """In either tokenizer."""
    teacher_tile: int | None = None
    """Image tokens of a tile of the teacher; None where an image is one item."""
    student_tile: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        shortest = min(self.teacher_tokens, self.student_tokens)
        if shortest <= self.answer_tokens:
            raise ValueError(
                f"samples have {shortest} tokens on average, but their answers {self.answer_tokens}; "
                "lower --answer-tokens or raise --teacher-tokens and --student-tokens"
            )

    def check_lengths(self, max_tokens: int) -> None:
        """Raise `ValueError` when samples may be drawn that are longer than a run accepts."""
        mean = max(self.teacher_tokens, self.student_tokens)
        if longest_drawn(mean) > max_tokens:
            raise ValueError(
                f"samples of {mean} tokens on average have up to {longest_drawn(mean)}, data.max_tokens is "
                f"{max_tokens}; give the data's own --teacher-tokens, --student-tokens and --answer-tokens"
            )

    def draw(self, num_samples: int, *, step: int) -> list[PairedSize]:
        """Return samples of a step: lengths drawn from the seed, the same shares in both tokenizers."""
        draw = random.Random(f"{self.seed}/{step}")
        return [self._sized(draw.uniform(1 - SPREAD, 1 + SPREAD)) for _ in range(num_samples)]

    def _sized(self, factor: float) -> PairedSize:
        answer_tokens = max(1, round(factor * self.answer_tokens))
        teacher, student = (
            _sample(round(factor * tokens), answer_tokens, tile)
            for tokens, tile in (
                (self.teacher_tokens, self.teacher_tile),
                (self.student_tokens, self.student_tile),
            )
        )
        return PairedSize(teacher=teacher, student=student)


def _sample(tokens: int, answer_tokens: int, tile: int | None) -> SampleSize:
    """Return a sample whose image takes what question and answer leave, in whole tiles if there are any."""
    image = max(0, tokens - answer_tokens - QUESTION_TEXT_TOKENS)
    items = (image,) * (image > 0) if tile is None else (tile,) * round(image / tile)
    return SampleSize(tokens=tokens, answer_tokens=answer_tokens, features_per_item=items)


def units_of(samples: Sequence[PairedSize], batch: BatchShape) -> list[UnitSize]:
    """Cut a step's samples into units as training does, by microbatch, then student rank."""
    dealt = cut_into_units(tuple(sample.longest for sample in samples), batch)
    return [UnitSize(samples=tuple(samples[i] for i in unit)) for unit in dealt]
