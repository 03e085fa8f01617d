"""Which spans a rank records, and what reading them refuses."""

from pathlib import Path

import pytest

from genrecal_mcore.status import (
    Activity,
    RankStatus,
    SpanLog,
    StatusRecord,
    TraceHeader,
    Unit,
    read_traces,
    status_path,
    trace_path,
)


def unit_at(step: int) -> Unit:
    return Unit(step=step, microbatch=1, student_rank=2)


def traced_status(run_dir: Path, *, rank: int = 0, world_size: int = 1) -> RankStatus:
    record = StatusRecord(rank=rank, role="student dp 0", host="a", pid=1, world_size=world_size)
    status = RankStatus(status_path(run_dir, rank), record)
    header = TraceHeader(
        rank=rank, role=record.role, host="a", world_size=world_size, offset_ns=5, uncertainty_ns=1
    )
    status.trace_into(SpanLog(trace_path(run_dir, rank), header, steps=range(3, 5)))
    return status


def test_spans_of_the_steps_are_kept_one_behind_the_other_also_a_late_wait(tmp_path: Path) -> None:
    status = traced_status(tmp_path)
    status.at("loads")
    for step in range(2, 7):
        status.at("computes", Activity.COMPUTE, unit_at(step))
        if step == 5:
            with status.waiting("rank 1", unit_at(4)):
                pass
    status.ends("finished")
    (trace,) = read_traces(tmp_path)
    assert trace.header.offset_ns == 5
    assert [(span.unit.step, span.activity, span.waiting_on) for span in trace.spans] == [
        (3, "compute", None),
        (4, "compute", None),
        (4, "wait", "rank 1"),
    ]
    assert trace.spans[0].unit == unit_at(3)
    first, second, late = trace.spans
    assert first.began_ns < first.ended_ns == second.began_ns < second.ended_ns < late.began_ns


def test_a_span_is_not_cut_where_its_seconds_are_asked_for(tmp_path: Path) -> None:
    status = traced_status(tmp_path)
    status.at("computes", Activity.COMPUTE, unit_at(3))
    status.seconds()
    status.at("computes", Activity.COMPUTE, unit_at(5))
    status.ends("finished")
    (trace,) = read_traces(tmp_path)
    (span,) = trace.spans
    assert (span.ended_ns - span.began_ns) / 1e9 <= status.seconds()[Activity.COMPUTE]


def test_spans_are_on_disk_when_the_steps_are_over_and_when_the_rank_fails_within_them(
    tmp_path: Path,
) -> None:
    status = traced_status(tmp_path)
    status.at("computes", Activity.COMPUTE, unit_at(3))
    status.at("computes", Activity.COMPUTE, unit_at(5))
    assert read_traces(tmp_path)[0].spans == ()
    status.at("computes", Activity.COMPUTE, unit_at(6))
    assert len(read_traces(tmp_path)[0].spans) == 1
    other = traced_status(tmp_path)
    other.at("computes", Activity.COMPUTE, unit_at(4))
    other.ends("out of memory")
    assert len(read_traces(tmp_path)[0].spans) == 1


def test_what_is_no_whole_trace_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no rank_\*.trace.jsonl; record some .* trace.first_step=10"):
        read_traces(tmp_path)
    traced_status(tmp_path, rank=1, world_size=2)
    with pytest.raises(ValueError, match=r"rank_000.trace.jsonl is missing; copy the files of all ranks"):
        read_traces(tmp_path)
    trace_path(tmp_path, 0).write_text('{"rank": 0}\n')
    with pytest.raises(ValueError, match=r"rank_000.trace.jsonl is not a rank's trace"):
        read_traces(tmp_path)
