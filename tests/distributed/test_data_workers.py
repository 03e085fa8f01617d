"""Runs whose ranks load their data in worker processes: nothing changes, and nothing is left behind."""

import multiprocessing
import os
import select
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import (
    BatchShape,
    SampleOrder,
    UnitLoader,
    View,
    build_index,
    load_processor,
    unit_samples,
)
from genrecal_mcore.status import read_statuses
from genrecal_mcore.training.checkpoint import latest_checkpoint, read_model_tensors
from genrecal_mcore.transfer import Unit
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import numbers_of, resume_run, train_run, train_until_student_dies

pytestmark = pytest.mark.distributed

NUM_RANKS, TEACHER, STUDENT = 2, 0, 1
END_TIMEOUT_MS = 20_000


def config_of(folders: dict[str, Path], run_dir: Path, *, num_workers: int) -> dict[str, Any]:
    config = raw_config(folders, run_dir)
    config["mesh"] = {"teacher": {}, "student": {"dp": 1}}
    config["train"] |= {"steps": 5, "checkpoint_every_steps": 2}
    config["data"]["num_workers"] = num_workers
    return config


def result_of(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint is not None
    return read_model_tensors(checkpoint, "")


def test_a_run_learns_the_same_bits_with_any_number_of_workers_also_when_it_is_killed_and_resumed(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    without, begun, resumed = (
        config_of(tiny_folders, tmp_path / name, num_workers=num_workers)
        for name, num_workers in (("without", 0), ("with", 3), ("with", 1))
    )
    rank_pool.run(train_run, NUM_RANKS, without)
    rank_pool.outcomes(train_until_student_dies, NUM_RANKS, begun, STUDENT, 2)
    rank_pool.run(resume_run, NUM_RANKS, resumed)
    assert numbers_of(tmp_path / "with") == numbers_of(tmp_path / "without")
    expected, found = result_of(tmp_path / "without"), result_of(tmp_path / "with")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def error_of_a_worker(data: Path, student: Path) -> str:
    """Load a unit whose image vanishes after it has been checked, and return what is said."""
    processor = load_processor(student)
    source = DataSource(path=data, images=data.parent / "images")
    processors = {"teacher": None, "student": processor}
    index = build_index(data.parent / "index", DataConfig(sources=(source,)), processors)
    batch = BatchShape(micro_batch_size=len(index), accumulation_steps=1, student_dp=1)
    unit = Unit(step=0, microbatch=0, student_rank=0)
    planned = [unit_samples(unit, index, SampleOrder(index.tokens, 1, index.digest), batch)]
    shutil.rmtree(data.parent / "images")
    view = View(processor=processor, with_pixels=True)
    with UnitLoader(planned, [view], num_workers=1, pin_memory=False) as loader:
        try:
            loader.load(unit)
        except RuntimeError as error:
            return str(error)
    return "nothing was noticed"


def test_what_a_worker_misses_is_said_in_one_sentence_and_not_in_a_traceback(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folders["data"].parent, tmp_path / "data")
    data = tmp_path / "data" / tiny_folders["data"].name
    (message,) = rank_pool.run(error_of_a_worker, 1, data, tiny_folders["student"])
    assert message.startswith(
        "the data of step 0, microbatch 0, student 0 could not be loaded: sample sample-"
    )
    assert "\n" not in message


def pids_of_workers() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def have_ended(pids: list[int]) -> bool:
    """Wait for processes that are nobody's children here."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.poll()
        ended.register(process, select.POLLIN)
        if not ended.poll(END_TIMEOUT_MS):
            return False
        os.close(process)
    return True


def train_and_kill(raw_config: dict[str, Any], rank: int, victim: str, pids_file: Path) -> None:
    """Train; when `rank` is to load the first unit of step 1, kill -9 its workers or itself."""
    load = UnitLoader.load

    def kill_or_load(self: UnitLoader, unit: Unit) -> Any:
        if dist.get_rank() == rank and (unit.step, unit.microbatch) == (1, 0):
            pids = pids_of_workers()
            pids_file.write_text(" ".join(map(str, pids)))
            for pid in pids if victim == "workers" else [os.getpid()]:
                os.kill(pid, signal.SIGKILL)
        return load(self, unit)

    UnitLoader.load = kill_or_load  # type: ignore[method-assign]
    train_run(raw_config)


@pytest.mark.parametrize(("victim", "rank"), [("workers", TEACHER), ("rank", STUDENT)])
def test_when_workers_or_their_rank_are_killed_every_rank_ends_and_no_worker_stays(
    victim: str, rank: int, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_of(tiny_folders, tmp_path / "run", num_workers=2)
    outcomes = rank_pool.outcomes(train_and_kill, NUM_RANKS, config, rank, victim, tmp_path / "pids")
    assert all(outcome.is_finished and not outcome.is_ok for outcome in outcomes)
    if victim == "rank":
        assert outcomes[rank].exit_code == -signal.SIGKILL
    else:
        said = read_statuses(tmp_path / "run")[rank].end or ""
        assert said.startswith("the data of step ")
        assert "student 0 could not be loaded" in said
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert have_ended(pids)
