"""What a run that was killed leaves behind, and that going on from it loses nothing."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from genrecal_mcore.training.checkpoint import checkpoints_dir, latest_checkpoint, read_model_tensors
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import (
    numbers_of,
    resume_run,
    train_run,
    train_until_student_dies,
)

pytestmark = pytest.mark.distributed

LONGEST_SAMPLE = 122
"""Tokens; as the budget of a microbatch it holds one or two of the tiny samples."""
STEPS, CHECKPOINT_EVERY, LAST_STEP_BEFORE_DEATH = 7, 3, 4
RTOL_OTHER_DP = 1e-5  # worst seen 1.4e-8


def config_of(folders: dict[str, Path], run_dir: Path, *, dp: int = 2, **changes: Any) -> dict[str, Any]:
    config = raw_config(folders, run_dir, **changes)
    teacher = config["teacher"] and {"tp": 2}
    config["mesh"] = {"teacher": teacher, "student": {"dp": dp}}
    config["train"] |= {
        "steps": STEPS,
        "lr": 1e-3,
        "accumulation_steps": 4 // dp,
        "checkpoint_every_steps": CHECKPOINT_EVERY,
    }
    # Dropout on: a resumed run must also draw the same random numbers.
    config["student"]["lora"]["dropout"] = 0.1
    return config


def stage_changes(stage: int, parents: dict[int, Path]) -> dict[str, Any]:
    changes: dict[str, Any] = {"stage": stage}
    if stage > 1:
        changes["init_from"] = parents[stage - 1]
    if stage == 3:
        changes["teacher"] = None
    return changes


def num_ranks(config: dict[str, Any]) -> int:
    return config["mesh"]["student"]["dp"] + (2 if config["teacher"] else 0)


def result_of(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint is not None
    return read_model_tensors(checkpoint, "")


@pytest.fixture(scope="module")
def undisturbed(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Train stages 1, 2 and 3, each from the one before."""
    runs: dict[int, Path] = {}
    root = tmp_path_factory.mktemp("undisturbed")
    for stage in (1, 2, 3):
        config = config_of(tiny_folders, root / f"stage{stage}", **stage_changes(stage, runs))
        rank_pool.run(train_run, num_ranks(config), config)
        runs[stage] = root / f"stage{stage}"
    return runs


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_and_resumed_run_equals_the_undisturbed_one_bit_for_bit(
    stage: int,
    tiny_folders: dict[str, Path],
    undisturbed: dict[int, Path],
    rank_pool: RankPool,
    tmp_path: Path,
) -> None:
    config = config_of(tiny_folders, tmp_path / "run", **stage_changes(stage, undisturbed))
    last_rank = num_ranks(config) - 1
    outcomes = rank_pool.outcomes(
        train_until_student_dies, num_ranks(config), config, last_rank, LAST_STEP_BEFORE_DEATH
    )
    assert outcomes[last_rank].exit_code == -signal.SIGKILL
    assert not any(outcome.is_ok for outcome in outcomes)
    assert [path.name for path in checkpoints_dir(tmp_path / "run").glob("step_*")] == ["step_00000003"]

    rank_pool.run(resume_run, num_ranks(config), config)

    assert numbers_of(tmp_path / "run") == numbers_of(undisturbed[stage])
    expected, found = result_of(undisturbed[stage]), result_of(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("max_tokens", [None, LONGEST_SAMPLE], ids=["as many", "a token budget"])
def test_a_run_goes_on_with_another_number_of_student_ranks(
    max_tokens: int | None,
    tiny_folders: dict[str, Path],
    undisturbed: dict[int, Path],
    rank_pool: RankPool,
    tmp_path: Path,
) -> None:
    configs = [config_of(tiny_folders, tmp_path / "run", dp=dp) for dp in (2, 1)]
    if max_tokens is not None:
        for config in configs:
            config["train"]["micro_batch_tokens"] = config["data"]["max_tokens"] = max_tokens
    rank_pool.outcomes(train_until_student_dies, 4, configs[0], 3, LAST_STEP_BEFORE_DEATH)
    rank_pool.run(resume_run, 3, configs[1])
    for found, expected in zip(numbers_of(tmp_path / "run"), numbers_of(undisturbed[1]), strict=True):
        difference = abs(found["loss"] - expected["loss"])
        assert_relatively_close(
            difference, expected["loss"], RTOL_OTHER_DP, name="loss after a resume", where=found["step"]
        )


def test_resuming_a_finished_run_changes_nothing(
    tiny_folders: dict[str, Path], undisturbed: dict[int, Path], rank_pool: RankPool
) -> None:
    before = numbers_of(undisturbed[1])
    rank_pool.run(resume_run, 4, config_of(tiny_folders, undisturbed[1]))
    assert numbers_of(undisturbed[1]) == before


@pytest.mark.parametrize(
    ("section", "key", "value", "name"),
    [
        ("train", "seed", 4, "seed"),
        ("train", "micro_batch_size", 2, "samples"),
        ("data", "length_window", 4, "data_digest"),
    ],
)
def test_resuming_with_another_configuration_is_refused(
    section: str,
    key: str,
    value: int,
    name: str,
    tiny_folders: dict[str, Path],
    undisturbed: dict[int, Path],
    rank_pool: RankPool,
) -> None:
    config = config_of(tiny_folders, undisturbed[3], **stage_changes(3, undisturbed))
    config[section][key] = value
    outcomes = rank_pool.outcomes(resume_run, 2, config)
    assert all(f"was written with {name} " in (outcome.error or "") for outcome in outcomes)
