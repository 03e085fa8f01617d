"""What a person watches while a run goes on: a live line on a terminal, a log line now and then elsewhere.

That of a run reads the same dict that goes to `metrics.jsonl` and measures nothing itself.
"""

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from genrecal_mcore.observability.logging_setup import stderr_console
from genrecal_mcore.observability.metrics import MetricValue

logger = logging.getLogger(__name__)

LOG_EVERY_S = 15.0


class ProgressLine:
    """Show the newest step: loss, answer tokens a second, and who waited for whom.

    On a terminal it is one live line; elsewhere the first, last and each `log_every_steps`-th step is logged.
    A context manager: use it only on the rank that speaks.
    """

    def __init__(self, *, title: str, num_steps: int, first_step: int = 0, log_every_steps: int = 10) -> None:
        self._title = title
        self._num_steps = num_steps
        self._num_done = first_step
        self._first_step = first_step
        self._log_every_steps = log_every_steps
        self._bar = _live_line(TimeRemainingColumn()) if stderr_console().is_terminal else None

    def __enter__(self) -> "ProgressLine":
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task(self._title, total=self._num_steps, completed=self._num_done, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, metrics: Mapping[str, MetricValue]) -> None:
        """Show one finished step, given as the line written to `metrics.jsonl`."""
        self._num_done += 1
        text = step_text(metrics)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._num_done, text=text)
        elif self._is_due():
            logger.info("%s %d/%d  %s", self._title, self._num_done, self._num_steps, text)

    def _is_due(self) -> bool:
        is_edge = self._num_done in (self._first_step + 1, self._num_steps)
        return is_edge or self._num_done % self._log_every_steps == 0


class CountLine:
    """Show how many of a number of things are done, how many a second, and the time left.

    On a terminal it is one live line; elsewhere a line is logged now and then, and at the end. A context
    manager; the rank that does not speak uses one that is not shown.
    """

    def __init__(
        self, *, title: str, total: int, is_shown: bool = True, log_every_s: float = LOG_EVERY_S
    ) -> None:
        self._title = title
        self._total = total
        self._num_done = 0
        self._started = self._logged = 0.0
        self._log_every_s = log_every_s
        self._is_logged = is_shown and not stderr_console().is_terminal
        self._bar = _live_line() if is_shown and stderr_console().is_terminal else None

    def __enter__(self) -> "CountLine":
        self._started = self._logged = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._bar.add_task(self._title, total=self._total, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """Show that so many more are done."""
        self._num_done += count
        now = time.monotonic()
        text = rate_text(self._num_done, self._total, elapsed_s=now - self._started)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._num_done, text=text)
        elif self._is_logged and (self._num_done == self._total or now - self._logged >= self._log_every_s):
            self._logged = now
            logger.info("%s %d/%d  %s", self._title, self._num_done, self._total, text)


def rate_text(num_done: int, total: int, *, elapsed_s: float) -> str:
    """Return how many are done a second, and the time that the rest takes at this rate."""
    if elapsed_s <= 0:
        return ""
    rate = num_done / elapsed_s
    left = timedelta(seconds=round((total - num_done) / rate))
    return f"{rate:.{1 if rate < 100 else 0}f} a second, {left} left"


def step_text(metrics: Mapping[str, MetricValue]) -> str:
    """Return the short text of one step: loss, seconds, who waited in it, answer tokens a second."""
    step_s = _number(metrics["step_s"])
    parts = [f"loss {_number(metrics['loss']):.4f}", f"{step_s:.2f} s a step"]
    student_s, teacher_s = metrics["student_wait_s"], metrics["teacher_wait_s"]
    if student_s is not None and teacher_s is not None:
        parts.append(f"waited {student_s:.2f} s for the teacher, {teacher_s:.2f} s for the student")
    elif student_s is not None:
        parts.append(f"waited {student_s:.2f} s for the feature cache")
    if step_s > 0:
        parts.append(f"{_number(metrics['answer_tokens_student']) / step_s:.0f} answer tokens/s")
    return "  ".join(parts)


def _number(value: MetricValue) -> float:
    return float("nan") if value is None else float(value)


def _live_line(*more: ProgressColumn) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        *more,
    )
    return Progress(*columns, console=stderr_console())
