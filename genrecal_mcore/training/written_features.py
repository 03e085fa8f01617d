"""Adds the teacher features that a student rank receives to a feature cache, each sample once."""

from dataclasses import replace

import numpy as np
import torch

from genrecal_mcore.data import (
    BatchShape,
    Microbatch,
    StepOrder,
    sample_rows,
    units_of_step,
    wanted_among_held,
)
from genrecal_mcore.feature_cache import FeatureWriter
from genrecal_mcore.status import RankStatus
from genrecal_mcore.training.features import FeatureSource, Waits
from genrecal_mcore.transfer import Unit


class SamplesToWrite:
    """Says which samples of a unit its rank writes: those that the cache lacks, where they come first.

    A function of the order alone, which every rank walks in steps: without a word, no two ranks write the
    same sample, also where an epoch begins anew.
    """

    def __init__(
        self, order: StepOrder, batch: BatchShape, *, keys: np.ndarray, is_missing: np.ndarray
    ) -> None:
        """`keys` `[num_samples]` and `is_missing` `[num_samples]` bool, by sample number."""
        self.order = order
        self.batch = batch
        self.keys = keys
        _, self._content = np.unique(keys, return_inverse=True)
        """Which of the different contents each sample has: two samples may be equal."""
        self._is_missing = np.zeros(len(keys), dtype=bool)
        self._is_missing[self._content] = is_missing
        self._step = -1
        self._claimed: list[list[tuple[int, str]]] = []

    def of_unit(self, unit: Unit) -> list[tuple[int, str]]:
        """Return place in the unit and key of each sample to write; units come step by step."""
        if unit.step != self._step:
            self._claimed = [self._claim(samples) for samples in self._units_of(unit.step)]
            self._step = unit.step
        return self._claimed[unit.microbatch * self.batch.student_dp + unit.student_rank]

    def _units_of(self, step: int) -> tuple[tuple[int, ...], ...]:
        return units_of_step(self.order, step=step, batch=self.batch)

    def _claim(self, samples: tuple[int, ...]) -> list[tuple[int, str]]:
        """Return place and key of the samples of a unit that nobody has seen before."""
        return [(place, self.keys[s].decode()) for place, s in enumerate(samples) if self._see(s)]

    def _see(self, sample: int) -> bool:
        content = self._content[sample]
        is_new = bool(self._is_missing[content])
        self._is_missing[content] = False
        return is_new


class WrittenFeatures:
    """A `FeatureSource` that hands on what another one gives, and writes it beside that."""

    def __init__(  # noqa: PLR0913 - a source, a writer, and what lies between them
        self,
        source: FeatureSource,
        writer: FeatureWriter,
        to_write: SamplesToWrite,
        *,
        holds_questions: bool,
        writes_questions: bool,
        status: RankStatus,
    ) -> None:
        """`holds_questions`: whether the source gives every row; `writes_questions`: whether all are kept."""
        self.source = source
        self.writer = writer
        self.to_write = to_write
        self.holds_questions = holds_questions
        self.writes_questions = writes_questions
        self.status = status

    @property
    def waits(self) -> Waits:
        """What the source has cost so far, and waiting for the disk."""
        waits = self.source.waits
        return replace(waits, student_s=waits.student_s + self.writer.waited_s)

    def begin(self, unit: Unit, batch: Microbatch) -> None:
        """Ask the source for the features of a unit."""
        self.source.begin(unit, batch)

    def take(self, unit: Unit, batch: Microbatch) -> torch.Tensor:
        """Return the source's features of a unit `[t, h]`, once the writer has room for them."""
        payload = self.source.take(unit, batch)
        rows = self._rows_to_write(unit, batch, payload)
        if rows and self.writer.problem is None:
            with self.status.waiting("the feature cache's disk", unit):
                self.writer.put(rows)
        return payload

    def close(self) -> None:
        """Write what is left, and close the source."""
        self.writer.close()
        self.source.close()

    def _rows_to_write(self, unit: Unit, batch: Microbatch, payload: torch.Tensor) -> dict[str, torch.Tensor]:
        samples = list(zip(batch.answer_spans, batch.lengths, strict=True))
        counts = [len(sample_rows(*sample, with_questions=self.holds_questions)) for sample in samples]
        parts = payload.split(counts)
        rows = {}
        for place, key in self.to_write.of_unit(unit):
            wanted = wanted_among_held(
                *samples[place], holds_questions=self.holds_questions, with_questions=self.writes_questions
            )
            rows[key] = parts[place] if isinstance(wanted, range) else parts[place][wanted]
        return rows
