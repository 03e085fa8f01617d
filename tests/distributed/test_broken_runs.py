"""Runs that break while they run: the ranks that are left say what they waited for, and end."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import train_run, train_until_teacher_dies, train_with_two_seeds

pytestmark = pytest.mark.distributed

TIMEOUT_S = 20.0


def config_of(folders: dict[str, Path], run_dir: Path, *, pp: int, dp: int) -> dict[str, Any]:
    config = raw_config(folders, run_dir)
    config["mesh"] = {"teacher": {"pp": pp}, "student": {"dp": dp}}
    config["train"] |= {"steps": 50, "accumulation_steps": 1}
    config["transfer"] = {"timeout_s": TIMEOUT_S, "prefetch": 1}
    return config


@pytest.mark.parametrize("pp", [1, 2])
def test_student_ranks_end_within_the_timeout_when_a_teacher_rank_dies(
    pp: int, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_of(tiny_folders, tmp_path / "run", pp=pp, dp=2)
    started = time.monotonic()
    outcomes = rank_pool.outcomes(train_until_teacher_dies, pp + 2, config, pp - 1, 3)
    assert time.monotonic() - started < 2 * TIMEOUT_S
    assert outcomes[pp - 1].exit_code == -signal.SIGKILL
    teacher = f"rank {pp - 1} (teacher tp 0 pp {pp - 1} dp 0)"
    errors = [outcome.error or "" for outcome in outcomes[pp:]]
    assert all("Error" in error for error in errors)
    assert any(f"for {teacher}: features of step" in error for error in errors)
    if pp == 2:
        assert f"waited for {teacher}: hidden states were not taken" in (outcomes[0].error or "")


def test_ranks_with_different_plans_are_noticed_before_anything_is_learnt(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_of(tiny_folders, tmp_path / "run", pp=1, dp=1)
    outcomes = rank_pool.outcomes(train_with_two_seeds, 2, config, 1)
    for outcome in outcomes:
        assert "the ranks computed different plans: rank 1 (student dp 0) has other" in (outcome.error or "")
        assert "configuration, samples of step 0 than rank 0 (teacher tp 0" in (outcome.error or "")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_that_broke_before_its_first_step_may_be_started_again(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_of(tiny_folders, tmp_path / "run", pp=1, dp=1)
    config["train"]["steps"] = 1
    rank_pool.outcomes(train_with_two_seeds, 2, config, 1)
    rank_pool.run(train_run, 2, config)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
