"""Times operations on one device: medians of a few runs after a first one that nobody counts."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopwatch:
    """How things are timed."""

    device: torch.device
    rounds: int
    """Times that each thing is run; the median counts."""

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the median time of a run.

        On CUDA until the device has finished; on a CPU this process's own time, which other processes do not
        stretch.
        """
        run()
        times = []
        for _ in range(self.rounds):
            started = self._now()
            run()
            times.append(self._now() - started)
        return statistics.median(times)

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()
