"""What each rank did, from when to when, in a few steps; `genrecal trace` puts the files together.

Times are of the rank's own clock, `time.perf_counter_ns`; a file's first line says how to bring them to rank
0's.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genrecal_mcore.status.unit import Unit

SENDS_FEATURES = "sends features to the student"
"""What a teacher rank is said to do when it hands a unit over: the arrows of a trace begin there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceHeader:
    """The first line of a rank's file."""

    rank: int
    role: str
    host: str
    world_size: int
    offset_ns: int
    """What to add to this rank's times to get rank 0's."""
    uncertainty_ns: int
    """How far off `offset_ns` can be, either way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One thing that a rank did, on its own clock."""

    unit: Unit
    activity: str
    doing: str
    waiting_on: str | None
    began_ns: int
    ended_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RankTrace:
    """What one rank has recorded."""

    header: TraceHeader
    spans: tuple[Span, ...]


class SpanLog:
    """Keeps the spans of some steps' units, and writes them when a unit of a later step comes."""

    def __init__(self, path: Path, header: TraceHeader, *, steps: range) -> None:
        self._path = path
        self._steps = steps
        self._kept: list[Span] = []
        path.write_text(json.dumps(asdict(header)) + "\n", encoding="utf-8")

    def add(self, span: Span) -> None:
        """Keep a span of the steps. One may still come after later ones: a send that is waited for."""
        if span.unit.step in self._steps:
            self._kept.append(span)
        elif span.unit.step >= self._steps.stop:
            self.flush()

    def flush(self) -> None:
        """Write what was kept so far."""
        if self._kept:
            lines = "".join(json.dumps(asdict(span)) + "\n" for span in self._kept)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(lines)
            self._kept.clear()


def trace_path(run_dir: Path, rank: int) -> Path:
    """Return where a rank keeps its spans."""
    return run_dir / "logs" / f"rank_{rank:03d}.trace.jsonl"


def trace_paths(run_dir: Path) -> list[Path]:
    """Return the files of a run's last trace."""
    return sorted((run_dir / "logs").glob("rank_*.trace.jsonl"))


def read_traces(run_dir: Path) -> list[RankTrace]:
    """Return what all ranks recorded, by rank.

    Raises `ValueError` when the run was not traced, when a rank's file is missing and when one is damaged.
    """
    traces = sorted(map(_read, trace_paths(run_dir)), key=lambda trace: trace.header.rank)
    if not traces:
        raise ValueError(
            f"{run_dir / 'logs'} holds no rank_*.trace.jsonl; record some steps with genrecal train CONFIG "
            "trace.first_step=10 trace.num_steps=3, then name that run"
        )
    found = {trace.header.rank for trace in traces}
    missing = [rank for rank in range(traces[0].header.world_size) if rank not in found]
    if missing:
        raise ValueError(f"{trace_path(run_dir, missing[0])} is missing; copy the files of all ranks' hosts")
    return traces


def _read(path: Path) -> RankTrace:
    try:
        header, *spans = _objects(path)
        return RankTrace(
            header=TraceHeader(**header),
            spans=tuple(Span(**{**span, "unit": Unit(**span["unit"])}) for span in spans),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a rank's trace ({error}); record it again") from None


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
