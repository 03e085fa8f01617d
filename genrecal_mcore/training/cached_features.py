"""Reads a student rank's teacher features from a feature cache, ahead of it, in the order of its units."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from genrecal_mcore.data import AnswerSpan, Microbatch, sample_rows, wanted_among_held
from genrecal_mcore.feature_cache import CacheRecord, FeatureReader
from genrecal_mcore.status import RankStatus
from genrecal_mcore.training.features import Waits
from genrecal_mcore.transfer import Unit

WAITED_FOR = "the feature cache"


class CachedFeatures:
    """A `FeatureSource` whose rows are those that a teacher once gave, bit for bit."""

    def __init__(  # noqa: PLR0913 - a reader, what it is asked for, and where that goes
        self,
        reader: FeatureReader,
        record: CacheRecord,
        *,
        samples_of: Callable[[Unit], Sequence[int]],
        with_questions: bool,
        device: torch.device,
        status: RankStatus,
    ) -> None:
        """`samples_of`: the samples of a unit, by number, as its microbatch packs them."""
        self.reader = reader
        self.record = record
        self.samples_of = samples_of
        self.with_questions = with_questions
        self.device = device
        self.status = status
        self.waited_s = 0.0
        self.bytes_read = 0
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cached_features")
        self.under_way: deque[Future[torch.Tensor]] = deque()

    @property
    def waits(self) -> Waits:
        """What waiting has cost this rank so far; no teacher waits for it."""
        return Waits(student_s=self.waited_s, bytes_received=self.bytes_read)

    def begin(self, unit: Unit, batch: Microbatch) -> None:
        """Begin to read a unit's features."""
        self.under_way.append(self.thread.submit(self._read, unit, batch))

    def take(self, unit: Unit, batch: Microbatch) -> torch.Tensor:  # noqa: ARG002 - as every `FeatureSource`
        """Wait until the oldest unit is read and return its features `[t, h]` on the device.

        Raises `RuntimeError` naming the file when they are not as they were written.
        """
        started = time.perf_counter()
        with self.status.waiting(WAITED_FOR, unit):
            rows = self.under_way.popleft().result()
        self.waited_s += time.perf_counter() - started
        self.bytes_read += rows.nbytes
        return rows.to(self.device, non_blocking=True)

    def close(self) -> None:
        """End the thread; what it was asked for is not read."""
        self.thread.shutdown(cancel_futures=True)

    def _read(self, unit: Unit, batch: Microbatch) -> torch.Tensor:
        """Return the rows `[t, h]` of a unit in host memory, from which a GPU copies by itself."""
        numbers = self.samples_of(unit)
        parts = [
            self._rows_of(*sample) for sample in zip(numbers, batch.answer_spans, batch.lengths, strict=True)
        ]
        rows = torch.empty(
            sum(map(len, parts)),
            self.record.hidden_size,
            dtype=getattr(torch, self.record.dtype),
            pin_memory=self.device.type == "cuda",
        )
        return torch.cat(parts, out=rows)

    def _rows_of(self, number: int, spans: Sequence[AnswerSpan], length: int) -> torch.Tensor:
        """Return the rows `[n, h]` of one sample, of those that the cache holds of it."""
        holds_questions = self.record.with_questions
        held = self.reader.read(number)
        expected = len(sample_rows(spans, length, with_questions=holds_questions))
        if len(held) != expected:
            raise RuntimeError(
                f"the feature cache has {len(held)} rows of sample number {number}, which is rendered into "
                f"{expected}: it was written by another version of this program; write another cache"
            )
        wanted = wanted_among_held(
            spans, length, holds_questions=holds_questions, with_questions=self.with_questions
        )
        return held if isinstance(wanted, range) else held[wanted]
