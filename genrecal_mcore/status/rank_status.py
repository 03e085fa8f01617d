"""What a rank is doing, in a small file that outlives the process: `genrecal explain` reads these files.

The record is rewritten in place with one system call: that costs microseconds, and what a killed process
wrote last is there. Refuses to judge: who was at fault is for the reader of all ranks' records to say.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from genrecal_mcore.status.spans import Span, SpanLog
from genrecal_mcore.status.unit import Unit

RECORD_BYTES = 2048
MAX_END_CHARACTERS = 400


class Activity(StrEnum):
    """What a rank's time goes into.

    Seconds are the host's: a GPU works on while the host goes ahead, and its time shows where the host waits
    for it, in `OPTIMIZER` and `OTHER`.
    """

    COMPUTE = "compute"
    DATA = "data"
    WAIT = "wait"
    """For other ranks to send or to take; collectives are part of `COMPUTE`."""
    TRANSFER = "transfer"
    """Sending, and waiting for rows whose header has passed: their sender has begun.

    Where there is no header, from stage to stage of the teacher and on its tp ranks but the first, nobody can
    tell a transfer from a wait: both are `WAIT`.
    """
    OPTIMIZER = "optimizer"
    CHECKPOINT = "checkpoint"
    OTHER = "other"
    """Setting up, recording, finishing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusRecord:
    """What one rank said last."""

    rank: int
    role: str
    """Such as `teacher tp 1 pp 0 dp 0`."""
    host: str
    pid: int
    world_size: int
    step: int | None = None
    """None before the first step."""
    microbatch: int | None = None
    student_rank: int | None = None
    """Whose microbatch it is."""
    doing: str = "starts"
    waiting_on: str | None = None
    """Who it waits for; None while it computes."""
    since: float = 0.0
    """When it began with that, seconds since the epoch."""
    end: str | None = None
    """How it ended; None while it runs, and for ever when it was killed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What its time went into until `since`, or until its end, by `Activity`."""

    @property
    def unit(self) -> Unit | None:
        """Return where the rank is; None before its first unit."""
        if self.step is None or self.microbatch is None or self.student_rank is None:
            return None
        return Unit(step=self.step, microbatch=self.microbatch, student_rank=self.student_rank)

    def describe(self) -> str:
        """Say in a few words where the rank is."""
        where = "before the first step" if self.step is None else f"step {self.step}"
        if self.microbatch is not None:
            where += f", microbatch {self.microbatch}"
        return f"{where}: {self.doing}" + (f" for {self.waiting_on}" if self.waiting_on else "")


class RankStatus:
    """This rank's record; every change is written at once."""

    def __init__(self, path: Path, record: StatusRecord) -> None:
        self.record = replace(record, since=time.time())
        self._activity, self._counted_ns = Activity.OTHER, time.perf_counter_ns()
        self._began_ns = self._counted_ns
        self._seconds = dict.fromkeys(Activity, 0.0)
        self._spans: SpanLog | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        self._write()

    def at(self, doing: str, activity: Activity = Activity.OTHER, unit: Unit | None = None) -> None:
        """Say what this rank begins to do; the unit stays as it was where none is given."""
        where = {} if unit is None else asdict(unit)
        self._set(activity, replace(self.record, doing=doing, waiting_on=None, **where))

    def trace_into(self, spans: SpanLog) -> None:
        """Record from now on what this rank does, and when."""
        self._spans = spans

    def seconds(self) -> dict[Activity, float]:
        """Return what this rank's time went into so far."""
        self._count(time.perf_counter_ns())
        return dict(self._seconds)

    @contextmanager
    def waiting(self, whom: str, unit: Unit, activity: Activity = Activity.WAIT) -> Iterator[None]:
        """Say whom this rank waits for; when the wait is over, what was said before holds again.

        When it fails, the record stays: it is what a reader wants to see.
        """
        before, activity_before = self.record, self._activity
        self._set(activity, replace(before, doing="waits", waiting_on=whom, **asdict(unit)))
        yield
        self._set(activity_before, before)

    def ends(self, how: str) -> None:
        """Say how this rank ended and write what is left of a trace; the first word stands."""
        if self.record.end is None:
            self._close_span(self._activity)
            if self._spans is not None:
                self._spans.flush()
            self.record = replace(self.record, end=how[:MAX_END_CHARACTERS], seconds=self._rounded_seconds())
            self._write()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _set(self, activity: Activity, record: StatusRecord) -> None:
        self._close_span(activity)
        self.record = replace(record, since=time.time(), seconds=self._rounded_seconds())
        self._write()

    def _rounded_seconds(self) -> dict[str, float]:
        return {name.value: round(seconds, 3) for name, seconds in self._seconds.items()}

    def _close_span(self, next_activity: Activity) -> None:
        """End what the record says, record it if its step is traced, and go over to the next activity."""
        now_ns = time.perf_counter_ns()
        self._count(now_ns)
        at = self.record
        if self._spans is not None and at.unit is not None:
            span = Span(
                unit=at.unit,
                activity=self._activity,
                doing=at.doing,
                waiting_on=at.waiting_on,
                began_ns=self._began_ns,
                ended_ns=now_ns,
            )
            self._spans.add(span)
        self._activity, self._began_ns = next_activity, now_ns

    def _count(self, now_ns: int) -> None:
        self._seconds[self._activity] += (now_ns - self._counted_ns) / 1e9
        self._counted_ns = now_ns

    def _write(self) -> None:
        line = json.dumps(asdict(self.record)).encode()
        os.pwrite(self._file, line.ljust(RECORD_BYTES - 1) + b"\n", 0)


def unrecorded_status() -> RankStatus:
    """Return a status that nobody reads, for ranks without a run folder."""
    return RankStatus(Path(os.devnull), StatusRecord(rank=0, role="", host="", pid=os.getpid(), world_size=1))


def status_path(run_dir: Path, rank: int) -> Path:
    """Return where a rank keeps its record."""
    return run_dir / "logs" / f"rank_{rank:03d}.status.json"


def status_paths(run_dir: Path) -> list[Path]:
    """Return where a run's ranks have written a record."""
    # An empty file is that of a rank which is about to write its first record.
    return [path for path in (run_dir / "logs").glob("rank_*.status.json") if path.stat().st_size]


def read_statuses(run_dir: Path) -> list[StatusRecord]:
    """Return the records of a run's newest start, by rank; raises `ValueError` when there is none."""
    records = sorted((_read(path) for path in status_paths(run_dir)), key=lambda record: record.rank)
    if not records:
        raise ValueError(
            f"{run_dir / 'logs'} holds no rank_*.status.json; name the folder of a run that was started"
        )
    newest = max(records, key=lambda record: record.since)
    return [record for record in records if record.rank < newest.world_size]


def _read(path: Path) -> StatusRecord:
    try:
        return StatusRecord(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the record of a rank ({error})") from None
