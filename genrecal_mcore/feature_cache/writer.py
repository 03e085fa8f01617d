"""Writes rows into a feature cache beside whatever gives them, in a thread with a bounded queue."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from genrecal_mcore.feature_cache.shards import write_shard

logger = logging.getLogger(__name__)

MAX_SHARD_SAMPLES = 8192
"""Keeps the header of a shard of very short samples small."""


class FeatureWriter:
    """Collects samples in host memory until they fill a shard. One a rank; close it when done.

    When a shard cannot be written, `problem` says why, and what is put afterwards is dropped: whole shards
    stay, and whether the job goes on is for its owner to say.
    """

    def __init__(self, folder: Path, *, shard_bytes: int, capacity: int) -> None:
        """`capacity`: units that may wait for the thread before `put` does."""
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.capacity = capacity
        self.problem: str | None = None
        self.samples_written = 0
        self.bytes_written = 0
        self.waited_s = 0.0
        """Seconds that `put` waited for the disk."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feature_cache")
        self._under_way: deque[Future[None]] = deque()
        self._rows: dict[str, torch.Tensor] = {}
        self._num_bytes = 0

    def put(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Take rows `[n, h]` by sample key, on any device; they must not change until they are written."""
        started = time.perf_counter()
        while len(self._under_way) >= self.capacity:
            self._under_way.popleft().result()
        self.waited_s += time.perf_counter() - started
        self._under_way.append(self._thread.submit(self._add, dict(rows)))

    def close(self) -> None:
        """Write what is left and wait until it is on disk."""
        self._under_way.append(self._thread.submit(self._write))
        while self._under_way:
            self._under_way.popleft().result()
        self._thread.shutdown()

    def _add(self, rows: dict[str, torch.Tensor]) -> None:
        if self.problem is not None:
            return
        for key, tensor in rows.items():
            # A copy: the rows of a sample are mostly a view of a whole unit, which would stay in memory.
            self._rows[key] = tensor.to("cpu", copy=True).contiguous()
            self._num_bytes += tensor.nbytes
        if self._num_bytes >= self.shard_bytes or len(self._rows) >= MAX_SHARD_SAMPLES:
            self._write()

    def _write(self) -> None:
        if not self._rows or self.problem is not None:
            return
        try:
            write_shard(self.folder, self._rows)
            self.samples_written += len(self._rows)
            self.bytes_written += self._num_bytes
        except OSError as error:
            self.problem = (
                f"{error}; {self.bytes_written} bytes of {self.samples_written} samples that this rank wrote "
                "before are whole and stay; make room, and genrecal cache adds the rest"
            )
            logger.warning("the feature cache takes no more: %s", self.problem)
        self._rows, self._num_bytes = {}, 0
