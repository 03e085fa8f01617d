"""What the records of all ranks together say about a run."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from genrecal_mcore.status import (
    Activity,
    RankStatus,
    StatusRecord,
    Unit,
    explain_run,
    read_statuses,
    status_path,
)

TEACHER = StatusRecord(rank=0, role="teacher tp 0 pp 0 dp 0", host="node1", pid=1, world_size=3)
STUDENTS = [
    StatusRecord(rank=1 + i, role=f"student dp {i}", host="node2", pid=2 + i, world_size=3) for i in range(2)
]
NOW = 1e12


def unit_at(step: int, microbatch: int) -> Unit:
    return Unit(step=step, microbatch=microbatch, student_rank=1)


def write(run_dir: Path, record: StatusRecord, *, end: str | None) -> None:
    status = RankStatus(status_path(run_dir, record.rank), record)
    if end is not None:
        status.ends(end)
    status.close()


def test_a_record_is_whole_after_every_change_and_short_again_after_a_long_one(tmp_path: Path) -> None:
    path = status_path(tmp_path, 0)
    status = RankStatus(path, TEACHER)
    status.at("computes", unit=unit_at(12, 3))
    assert json.loads(path.read_text())["step"] == 12
    with status.waiting("rank 1 (student dp 0)", unit_at(13, 0)):
        (found,) = read_statuses(tmp_path)
        assert found.describe() == "step 13, microbatch 0: waits for rank 1 (student dp 0)"
    (found,) = read_statuses(tmp_path)
    assert found.describe() == "step 12, microbatch 3: computes"
    status.ends("x" * 10000)
    status.ends("a second word")
    (found,) = read_statuses(tmp_path)
    assert found.end == "x" * 400


def test_what_failed_while_waiting_stays_in_the_record(tmp_path: Path) -> None:
    status = RankStatus(status_path(tmp_path, 0), TEACHER)
    with pytest.raises(RuntimeError), status.waiting("rank 2 (student dp 1)", unit_at(4, 1)):
        raise RuntimeError
    (found,) = read_statuses(tmp_path)
    assert found.waiting_on == "rank 2 (student dp 1)" and found.step == 4


def test_a_rank_without_a_last_word_is_named_before_those_that_waited_for_it(tmp_path: Path) -> None:
    gone = replace(TEACHER, step=9, microbatch=0, doing="computes")
    write(tmp_path, gone, end=None)
    for student in STUDENTS:
        waits = replace(student, step=8, doing="waits", waiting_on="rank 0 (teacher tp 0 pp 0 dp 0)")
        write(tmp_path, waits, end="connection closed")
    explanation = explain_run(tmp_path, now=NOW)
    assert [row[0] for row in explanation.rows] == ["0", "1", "2"]
    first, second = explanation.sentences
    assert first.startswith("ended without a last word: rank 0 (teacher tp 0 pp 0 dp 0) on node1; killed")
    assert second == "2 of 2 ranks that spoke last waited for rank 0 (teacher tp 0 pp 0 dp 0)"


@pytest.mark.parametrize(
    ("ends", "sentence"),
    [
        (("finished",) * 3, "the run has finished"),
        ((None,) * 3, "the run goes on, or all of it was killed at once"),
        (("stopped: the run was preempted", "stopped as asked, 7 steps are done", None), "without a last"),
        (("stopped: x", *("stopped as asked, 7 steps are done",) * 2), "7 steps are done"),
        (("ended by SIGTERM",) * 3, "all ranks were told to end"),
        (
            ("ended by SIGTERM", "ended by SIGTERM", "CUDA error"),
            "rank 2 (student dp 1) failed",
        ),
    ],
)
def test_the_ends_decide_what_is_said(ends: tuple[str | None, ...], sentence: str, tmp_path: Path) -> None:
    for record, end in zip([TEACHER, *STUDENTS], ends, strict=True):
        write(tmp_path, record, end=end)
    assert sentence in explain_run(tmp_path, now=NOW).sentences[0]


def test_records_of_an_earlier_start_with_more_ranks_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, replace(STUDENTS[1], rank=7, world_size=8), end=None)
    os.utime(status_path(tmp_path, 7))
    for record in [TEACHER, *STUDENTS]:
        write(tmp_path, record, end="finished")
    assert [record.rank for record in read_statuses(tmp_path)] == [0, 1, 2]


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no rank_\*.status.json; name the folder of a run"):
        explain_run(tmp_path, now=NOW)
    status_path(tmp_path, 0).parent.mkdir()
    status_path(tmp_path, 0).write_text("[]")
    with pytest.raises(ValueError, match=r"rank_000.status.json is not the record of a rank"):
        explain_run(tmp_path, now=NOW)


def test_time_goes_to_the_activity_of_the_moment_and_waits_to_waiting(tmp_path: Path) -> None:
    status = RankStatus(status_path(tmp_path, 0), TEACHER)
    status.at("prepares", Activity.DATA, unit_at(1, 0))
    with status.waiting("rank 1 (student dp 0)", unit_at(1, 0)):
        assert status.seconds()[Activity.WAIT] > 0
    before = status.seconds()
    assert status.seconds()[Activity.DATA] > before[Activity.DATA]
    assert status.seconds()[Activity.WAIT] == before[Activity.WAIT]
    assert status.seconds()[Activity.COMPUTE] == 0.0
