"""The trace of a real run: both meshes on one clock."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.status import trace_paths
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import resume_run, train_run

pytestmark = pytest.mark.distributed

STEPS, FIRST, NUM, MICROBATCHES, STUDENTS = 5, 1, 2, 2, 2
ROUNDING_US = 2e-3
UNITS = [
    (step, microbatch, student)
    for step in range(FIRST, FIRST + NUM)
    for microbatch in range(MICROBATCHES)
    for student in range(STUDENTS)
]


def config_of(folders: dict[str, Path], run_dir: Path, *, teacher: dict[str, int]) -> dict[str, Any]:
    config = raw_config(folders, run_dir)
    config["mesh"] = {"teacher": teacher, "student": {"dp": STUDENTS}}
    config["train"] |= {"steps": STEPS, "accumulation_steps": MICROBATCHES}
    config["trace"] = {"first_step": FIRST, "num_steps": NUM}
    return config


@pytest.fixture(scope="module")
def run_dir(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run_dir = tmp_path_factory.mktemp("traced") / "run"
    rank_pool.run(train_run, 6, config_of(tiny_folders, run_dir, teacher={"tp": 2, "pp": 2}))
    return run_dir


@pytest.fixture(scope="module")
def events(run_dir: Path) -> list[dict[str, Any]]:
    out = run_dir / "elsewhere.json"
    call("trace", str(run_dir), "--out", str(out))
    return json.loads(out.read_text())["traceEvents"]


def call(*arguments: str) -> int:
    """Run the command line in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr("sys.argv", ["genrecal", *arguments])
        patch.delenv("LOCAL_RANK", raising=False)
        command_line.main()
    return caught.value.code


def rank_of(event: dict[str, Any]) -> int:
    return event["tid"] - 1


def unit_of(span: dict[str, Any]) -> tuple[int, int, int]:
    return span["args"]["step"], span["args"]["microbatch"], span["args"]["student"]


def test_each_mesh_is_a_process_and_each_rank_a_thread_named_by_its_role(
    events: list[dict[str, Any]],
) -> None:
    names = {(e["pid"], e["tid"], e["args"]["name"]) for e in events if e["name"] == "process_name"}
    assert names == {(1, 1 + rank, "teacher") for rank in range(4)} | {(2, 5, "student"), (2, 6, "student")}
    threads = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert threads[3:5] == ["tp 1 pp 1 dp 0 (rank 3)", "dp 0 (rank 4)"]


def test_spans_of_a_rank_do_not_overlap(events: list[dict[str, Any]]) -> None:
    spans_of = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            spans_of[rank_of(event)].append((event["ts"], event["ts"] + event["dur"]))
    assert sorted(spans_of) == list(range(6))
    assert min(start for spans in spans_of.values() for start, _ in spans) == 0
    for spans in spans_of.values():
        for (_, end), (start, _) in pairwise(sorted(spans)):
            assert end <= start + ROUNDING_US


def test_every_unit_of_the_steps_is_computed_once_on_each_rank_that_it_passes(
    events: list[dict[str, Any]],
) -> None:
    computed = defaultdict(list)
    for event in events:
        if event["ph"] == "X" and event["name"] == "compute":
            computed[rank_of(event)].append(unit_of(event))
    for rank in range(4):
        assert computed[rank] == UNITS
    for student in range(STUDENTS):
        assert computed[4 + student] == [unit for unit in UNITS if unit[2] == student]


def test_arrows_lead_forward_from_a_send_on_the_last_stage_to_the_students_computation(
    events: list[dict[str, Any]],
) -> None:
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    assert starts.keys() == ends.keys() and len(starts) == 2 * len(UNITS)  # from both tp ranks
    spans = {(e["tid"], e["ts"]): e for e in events if e["ph"] == "X"}
    for number, start in starts.items():
        end = ends[number]
        assert rank_of(start) in (2, 3) and rank_of(end) in (4, 5)
        assert start["ts"] < end["ts"]
        sends, computes = spans[start["tid"], start["ts"]], spans[end["tid"], end["ts"]]
        assert (sends["name"], computes["name"]) == ("transfer", "compute")
        assert unit_of(sends) == unit_of(computes)


def test_a_run_that_goes_on_behind_the_steps_keeps_their_trace(
    run_dir: Path, events: list[dict[str, Any]], tiny_folders: dict[str, Path], rank_pool: RankPool
) -> None:
    rank_pool.run(resume_run, 3, config_of(tiny_folders, run_dir, teacher={}))
    assert call("trace", str(run_dir)) == 0
    assert json.loads((run_dir / "trace.json").read_text())["traceEvents"] == events


def test_a_run_that_has_not_come_to_the_steps_yet_is_refused(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").mkdir()
    for path in trace_paths(run_dir):
        header, *_ = path.read_text().splitlines(keepends=True)
        (tmp_path / "logs" / path.name).write_text(header)
    assert call("trace", str(tmp_path)) == 2
    assert "has written a span; the steps of trace.first_step" in capsys.readouterr().err


def test_a_run_without_a_trace_is_refused_with_how_to_record_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("trace", str(tmp_path)) == 2
    assert "holds no rank_*.trace.jsonl; record some steps with genrecal train" in capsys.readouterr().err
