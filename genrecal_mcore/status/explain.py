"""Reads what all ranks of a run said last, and says which one to look at first."""

from dataclasses import dataclass
from pathlib import Path

from genrecal_mcore.status.rank_status import StatusRecord, read_statuses


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A run's last words."""

    rows: tuple[tuple[str, ...], ...]
    """One a rank: rank, role, host, step, microbatch, doing, waiting on, seconds since, end."""
    sentences: tuple[str, ...]
    """What follows from them, the most important first."""


def explain_run(run_dir: Path, *, now: float) -> Explanation:
    """Explain a run; `now` is in seconds since the epoch.

    Raises `ValueError` when the folder is not that of a run that was started.
    """
    records = read_statuses(run_dir)
    return Explanation(
        rows=tuple(_row(record, now=now) for record in records),
        sentences=tuple(_sentences(records, now=now)),
    )


def _row(record: StatusRecord, *, now: float) -> tuple[str, ...]:
    step = "" if record.step is None else str(record.step)
    microbatch = "" if record.microbatch is None else str(record.microbatch)
    end = record.end or ""
    seconds = f"{now - record.since:.0f}" if record.end is None else ""
    return (
        str(record.rank),
        record.role,
        record.host,
        step,
        microbatch,
        record.doing,
        record.waiting_on or "",
        seconds,
        end,
    )


def _sentences(records: list[StatusRecord], *, now: float) -> list[str]:
    """Judge from ends and waits: a rank without a last word among ranks that have one was killed."""
    ended = [record for record in records if record.end is not None]
    silent = [record for record in records if record.end is None]
    if not ended:
        return [_of_a_run_that_goes_on(silent, now=now)]
    if all(record.end == "finished" for record in records):
        return ["the run has finished"]
    if silent:
        names = ", ".join(f"{_name(record)} on {record.host}" for record in silent)
        return [
            f"ended without a last word: {names}; killed, out of memory, or the host was lost. "
            "Look there first: in the job's output and in the host's kernel log",
            *_waits(ended),
        ]
    return [*_of_ranks_that_failed(ended), *_waits(ended)]


def _of_a_run_that_goes_on(records: list[StatusRecord], *, now: float) -> str:
    busy = [record for record in records if record.waiting_on is None]
    slowest = min(busy or records, key=lambda record: record.since)
    return (
        f"the run goes on, or all of it was killed at once; longest without a word: {_name(slowest)} "
        f"({slowest.describe()}, since {now - slowest.since:.0f} s)"
    )


def _of_ranks_that_failed(ended: list[StatusRecord]) -> list[str]:
    stopped = [record for record in ended if record.end is not None and record.end.startswith("stopped")]
    if stopped:
        return [f"the run was asked to stop and can go on: {stopped[-1].end}"]
    failed = [record for record in ended if record.end not in (None, "finished") and not _is_told(record)]
    first = min(failed, key=lambda record: record.waiting_on is not None, default=None)
    if first is None:
        return ["all ranks were told to end: the job was cancelled, or its time was over"]
    return [f"{_name(first)} failed at {first.describe()}: {first.end}"]


def _waits(ended: list[StatusRecord]) -> list[str]:
    """Say whom most of the others waited for."""
    waited_for = [record.waiting_on for record in ended if record.waiting_on is not None]
    if not waited_for:
        return []
    most = max(set(waited_for), key=waited_for.count)
    return [f"{waited_for.count(most)} of {len(ended)} ranks that spoke last waited for {most}"]


def _is_told(record: StatusRecord) -> bool:
    return record.end is not None and record.end.startswith("ended by SIGTERM")


def _name(record: StatusRecord) -> str:
    return f"rank {record.rank} ({record.role})"
