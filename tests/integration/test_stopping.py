"""Runs that are asked to stop, and ranks that are told to end while they wait."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from genrecal_mcore.data import UnitLoader
from genrecal_mcore.status import explain_run, read_statuses, status_path
from genrecal_mcore.training import RunPreempted
from genrecal_mcore.training.checkpoint import checkpoints_dir
from genrecal_mcore.training.recorder import StepRecorder
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import numbers_of, resume_run, train_run
from tests.integration.test_requeue import config_file, torchrun

pytestmark = pytest.mark.distributed

STEPS, ASKED_AT = 9, 4


def config_of(folders: dict[str, Path], run_dir: Path) -> dict[str, Any]:
    config = raw_config(folders, run_dir)
    config["mesh"] = {"teacher": {"pp": 2}, "student": {"dp": 2}}
    config["train"] |= {"steps": STEPS, "checkpoint_every_steps": 100}
    return config


def train_and_ask_to_stop(raw_config: dict[str, Any], stop_file: Path) -> str:
    """Train; the first student rank makes the file in step `ASKED_AT`; say how the rank ended."""
    record = StepRecorder.record

    def record_and_ask(self: StepRecorder, step_record: Any) -> None:
        record(self, step_record)
        if self.group.rank() == 0 and step_record.step == ASKED_AT:
            stop_file.touch()

    StepRecorder.record = record_and_ask  # type: ignore[method-assign]
    try:
        train_run(raw_config, stop_file=stop_file)
    except RunPreempted as end:
        # As `genrecal train` does: a rank that stays would keep its peers waiting.
        raise SystemExit(str(end)) from None
    return "finished"


def test_a_run_that_is_asked_to_stop_ends_its_step_saves_and_goes_on_as_if_nothing_had_been(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    rank_pool.run(train_run, 4, config_of(tiny_folders, tmp_path / "undisturbed"))
    config = config_of(tiny_folders, tmp_path / "run")
    outcomes = rank_pool.outcomes(train_and_ask_to_stop, 4, config, tmp_path / "stop")
    errors = [outcome.error or "" for outcome in outcomes]
    assert all("SystemExit: the students have left: the run was asked to stop" in e for e in errors[:2])
    assert all("SystemExit: stopped as asked, 5 steps are done" in error for error in errors[2:])
    assert [path.name for path in checkpoints_dir(tmp_path / "run").glob("step_*")] == ["step_00000005"]
    assert len(numbers_of(tmp_path / "run")) == ASKED_AT + 1
    assert "asked to stop and can go on" in explain_run(tmp_path / "run", now=time.time()).sentences[0]

    rank_pool.run(resume_run, 4, config)

    assert numbers_of(tmp_path / "run") == numbers_of(tmp_path / "undisturbed")
    assert explain_run(tmp_path / "run", now=time.time()).sentences == ("the run has finished",)


def test_the_command_line_says_preempted_by_its_exit_code(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    given = config_file(tiny_folders, tmp_path, steps=3)
    stop = tmp_path / "stop"
    stop.touch()
    done = torchrun(given, "--resume-or-begin", "--stop-file", stop, ranks=2)
    assert done.returncode != 0
    assert "exitcode  : 75" in done.stderr
    assert [path.name for path in checkpoints_dir(tmp_path / "run").glob("step_*")] == ["step_00000001"]


def wait_for_a_silent_teacher(raw_config: dict[str, Any]) -> None:
    """Train, with a teacher that stops for good before its first unit, as on a host that hangs."""
    if dist.get_rank() == 0:
        UnitLoader.load = lambda *_: signal.pause()  # type: ignore[assignment,method-assign]
    train_run(raw_config)


def terminate_when_waiting(run_dir: Path) -> None:
    """Send SIGTERM to the student once it waits, and end the teacher, which will never move again."""
    paths = [status_path(run_dir, rank) for rank in range(2)]
    while not (all(path.exists() for path in paths) and read_statuses(run_dir)[-1].waiting_on):
        time.sleep(0.01)
    teacher, student = read_statuses(run_dir)
    os.kill(student.pid, signal.SIGTERM)
    os.kill(teacher.pid, signal.SIGKILL)


def test_a_rank_that_is_told_to_end_while_it_waits_says_for_whom(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_of(tiny_folders, tmp_path / "run")
    config["mesh"] = {"teacher": {}, "student": {"dp": 1}}
    config["transfer"] = {"timeout_s": 600.0}
    watcher = threading.Thread(target=terminate_when_waiting, args=(tmp_path / "run",))
    watcher.start()
    _, student = rank_pool.outcomes(wait_for_a_silent_teacher, 2, config, timeout_s=60.0)
    watcher.join()
    assert student.exit_code == 128 + signal.SIGTERM
    log = (tmp_path / "run" / "logs" / "rank_001.log").read_text()
    expected = (
        "this rank was at step 0, microbatch 0: waits for rank 0 (teacher tp 0 pp 0 dp 0) when it ended"
    )
    assert expected in log
    assert str(read_statuses(tmp_path / "run")[1].end).startswith("ended by SIGTERM")
