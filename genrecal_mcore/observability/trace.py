"""Writes what all ranks recorded as one trace on one clock, in the JSON that ui.perfetto.dev and Chrome open.

Format: "Trace Event Format", the document of Chrome's tracing tools. A mesh is a process, a rank a thread, an
activity a span; arrows lead from where a teacher rank sends a unit to where a student computes with it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from genrecal_mcore.status import SENDS_FEATURES, Activity, RankTrace, Span, Unit, read_traces

Event = dict[str, Any]

PROCESSES = {"teacher": 1, "student": 2}
"""Process numbers by the first word of a role. Viewers may take number 0 for an idle one, threads' too."""


def write_trace(run_dir: Path, out: Path) -> int:
    """Write the trace of a run to `out` and return how far a rank may be off rank 0's clock, in ns.

    A file that is there is replaced. Raises `ValueError` when the run was not traced, or not yet.
    """
    traces = read_traces(run_dir)
    if not any(trace.spans for trace in traces):
        raise ValueError(
            f"no rank of {run_dir} has written a span; the steps of trace.first_step and trace.num_steps in "
            "its config.yaml have not begun, are not over yet, or the run was killed in them"
        )
    uncertainty_ns = max(trace.header.uncertainty_ns for trace in traces)
    content = {
        "traceEvents": trace_events(traces),
        "displayTimeUnit": "ms",
        "otherData": {"run": str(run_dir), "us off rank 0's clock, at most": uncertainty_ns / 1000},
    }
    unfinished = out.with_name(out.name + ".tmp")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(out)
    return uncertainty_ns


def trace_events(traces: Sequence[RankTrace]) -> list[Event]:
    """Return the events of a trace; time 0 is when its first span began."""
    origin_ns = min(span.began_ns + trace.header.offset_ns for trace in traces for span in trace.spans)
    names = [event for trace in traces for event in _names(trace)]
    spans = [_span(trace, span, origin_ns) for trace in traces for span in trace.spans]
    # Behind the spans, so that a viewer has opened the one that an end of an arrow belongs to.
    return [*names, *spans, *_arrows(traces, origin_ns)]


def _names(trace: RankTrace) -> Iterator[Event]:
    mesh, _, place = trace.header.role.partition(" ")
    where, rank = _where(trace), trace.header.rank
    yield {"ph": "M", "name": "process_name", **where, "args": {"name": mesh}}
    yield {"ph": "M", "name": "process_sort_index", **where, "args": {"sort_index": where["pid"]}}
    yield {"ph": "M", "name": "thread_name", **where, "args": {"name": f"{place} (rank {rank})"}}
    yield {"ph": "M", "name": "thread_sort_index", **where, "args": {"sort_index": rank}}


def _where(trace: RankTrace) -> Event:
    return {"pid": PROCESSES[trace.header.role.partition(" ")[0]], "tid": trace.header.rank + 1}


def _us(trace: RankTrace, time_ns: int, origin_ns: int) -> float:
    return (time_ns + trace.header.offset_ns - origin_ns) / 1000


def _span(trace: RankTrace, span: Span, origin_ns: int) -> Event:
    """Return a complete event; its name is the activity, by which viewers choose the colour."""
    return {
        "ph": "X",
        "name": span.activity,
        "cat": span.activity,
        **_where(trace),
        "ts": _us(trace, span.began_ns, origin_ns),
        "dur": (span.ended_ns - span.began_ns) / 1000,
        "args": {
            "step": span.unit.step,
            "microbatch": span.unit.microbatch,
            "student": span.unit.student_rank,
            "doing": span.doing,
            **({"waiting on": span.waiting_on} if span.waiting_on else {}),
        },
    }


def _arrows(traces: Sequence[RankTrace], origin_ns: int) -> Iterator[Event]:
    """Yield an arrow from each teacher rank that sends a unit to the student that computes with it."""
    computed = {
        span.unit: (trace, span)
        for trace in traces
        for span in trace.spans
        if trace.header.role.startswith("student") and span.activity == Activity.COMPUTE
    }
    number = 0
    for trace in traces:
        for unit, sent in _sends(trace).items():
            if unit not in computed:
                continue
            student, span = computed[unit]
            arrow = {"name": "features", "cat": "features", "id": number}
            yield {"ph": "s", **arrow, **_where(trace), "ts": _us(trace, sent.began_ns, origin_ns)}
            end = _us(student, span.began_ns, origin_ns)
            yield {"ph": "f", "bp": "e", **arrow, **_where(student), "ts": end}
            number += 1


def _sends(trace: RankTrace) -> dict[Unit, Span]:
    """Return where each unit was sent: behind the waits for room, which cut the span, so in its last part."""
    return {span.unit: span for span in trace.spans if span.doing == SENDS_FEATURES}
