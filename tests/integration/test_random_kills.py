"""Kills a rank at a random moment, again and again: the run ends as if nothing had been."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.helpers.first_step import raw_config
from tests.helpers.measured import MEASURED
from tests.helpers.rank_pool import TEARDOWN_GRACE_S, RankPool
from tests.helpers.training_run import numbers_of, train_run

pytestmark = pytest.mark.distributed

NUM_RANKS, STEPS = 3, 60


def config_of(folders: dict[str, Path], run_dir: Path) -> dict[str, Any]:
    config = raw_config(folders, run_dir)
    config["mesh"] = {"teacher": {}, "student": {"dp": NUM_RANKS - 1}}
    config["train"] |= {"steps": STEPS, "accumulation_steps": 1, "checkpoint_every_steps": 5}
    return config


def train_and_die(raw_config: dict[str, Any], dying_rank: int, seconds: float) -> None:
    """Train, or go on; one rank kills itself after `seconds` unless the run has ended before."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    if dist.get_rank() == dying_rank:
        timer.start()
    train_run(raw_config, resume=(Path(raw_config["run"]["dir"]) / "config.yaml").exists())
    timer.cancel()


@pytest.mark.parametrize(
    "num_kills", [pytest.param(5, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.faults)]
)
def test_a_run_that_is_killed_at_random_moments_ends_with_the_metrics_of_an_undisturbed_one(
    num_kills: int, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    rank_pool.run(train_run, NUM_RANKS, config_of(tiny_folders, tmp_path / "cold"))  # imports what is missing
    started = time.monotonic()
    rank_pool.run(train_run, NUM_RANKS, config_of(tiny_folders, tmp_path / "undisturbed"))
    duration_s = time.monotonic() - started
    expected = numbers_of(tmp_path / "undisturbed")
    assert len(expected) == STEPS

    draw = random.Random(7)
    kills, runs = 0, 0
    while kills < num_kills:
        config = config_of(tiny_folders, tmp_path / f"run{runs}")
        is_finished = False
        while not is_finished:
            # Early moments more often: a run is killed many times before it gets to its end.
            seconds = draw.triangular(0, duration_s, 0) if kills < num_kills else 1e6
            victim = draw.randrange(NUM_RANKS)
            outcomes = rank_pool.outcomes(
                train_and_die, NUM_RANKS, config, victim, seconds, grace_s=TEARDOWN_GRACE_S
            )
            is_finished = all(outcome.is_ok for outcome in outcomes)
            if not is_finished:
                assert outcomes[victim].exit_code == -signal.SIGKILL, outcomes
                kills += 1
            done = numbers_of(tmp_path / f"run{runs}")
            assert done == expected[: len(done)]
        assert len(done) == STEPS
        runs += 1
    MEASURED.append(f"{kills} of {num_kills} kills, in {runs} runs: the metrics of the undisturbed run")
