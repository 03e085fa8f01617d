"""The first step of every ablation, against the naive reference."""

from pathlib import Path
from typing import Any

import pytest
import torch

from genrecal_mcore.config import RunConfig
from genrecal_mcore.training.student_assembly import build_student_module
from tests.helpers.covering import Case
from tests.helpers.first_step import compare_with_reference, first_step, pair_folders, raw_config
from tests.helpers.one_tokenizer import make_models_of_one_tokenizer
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import train_run
from tests.numerics.conftest import PAIRS, Pair

TO_QWEN2, TO_LLAMA = PAIRS
CASES: dict[str, Case] = {
    "kl_only-no_norm-stage1-tp2-student2": {
        "pair": TO_QWEN2,
        "stage": 1,
        "teacher_tp": 2,
        "student_dp": 2,
        "loss": {"ce_weight": 0.0, "kl_weight": 1.5},
        "recalibrator": {"extra_norm": False},
    },
    "ce_only-stage1": {"pair": TO_LLAMA, "stage": 1, "loss": {"ce_weight": 0.5, "kl_weight": 0.0}},
    "weights-no_norm-stage2-student2": {
        "pair": TO_LLAMA,
        "stage": 2,
        "student_dp": 2,
        "loss": {"ce_weight": 0.5, "kl_weight": 2.0, "position_weighting": "boundary_and_rest"},
        "recalibrator": {"extra_norm": False},
    },
    "kl_only-body-stage2": {
        "pair": TO_QWEN2,
        "stage": 2,
        "loss": {"ce_weight": 0.0},
        "student": {"lora": None},
    },
    "ce_only-body-stage2-tp2-student2": {
        "pair": TO_LLAMA,
        "stage": 2,
        "teacher_tp": 2,
        "student_dp": 2,
        "loss": {"kl_weight": 0.0},
        "student": {"lora": None},
    },
}


def config_of(case: Case, folders: dict[str, Path], run_dir: Path) -> dict[str, Any]:
    config = raw_config(pair_folders(folders, case["pair"]), run_dir, stage=case["stage"])
    dp = case.get("student_dp", 1)
    config["mesh"] = {"teacher": {"tp": case.get("teacher_tp", 1)}, "student": {"dp": dp}}
    config["train"]["accumulation_steps"] = 6 // dp
    config["student"] |= case.get("student", {})
    for section in ("loss", "recalibrator"):
        config[section] = case.get(section, {})
    return config


def num_ranks(config: dict[str, Any]) -> int:
    return config["mesh"]["teacher"].get("tp", 1) + config["mesh"]["student"]["dp"]


def objective(case: Case) -> Case:
    return {"pair": case["pair"], "stage": case["stage"], **case.get("loss", {})}


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_and_gradients_of_an_ablation_equal_the_reference(
    case: Case, folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_of(case, folders, tmp_path / "run")
    if case["stage"] == 2:
        config["init_from"] = tmp_path / "stage1"
        stage1 = config_of({**case, "stage": 1}, folders, config["init_from"])
        rank_pool.run(train_run, num_ranks(stage1), stage1)

    results = rank_pool.run(first_step, num_ranks(config), config)

    compare_with_reference(results, objective(case), folders)


@pytest.mark.distributed
def test_a_baseline_with_a_weight_that_teaches_the_body_equals_the_reference(
    rank_pool: RankPool, tmp_path: Path
) -> None:
    folders = make_models_of_one_tokenizer(tmp_path)
    case = {"pair": ("internvl", "small_internvl"), "stage": 2, "student_dp": 2, "loss": {"kl_weight": 3.0}}
    config = config_of({**case, "student": {"lora": None}}, folders, tmp_path / "run") | {"method": "kl"}
    results = rank_pool.run(first_step, num_ranks(config), config)
    compare_with_reference(results, {**objective(case), "method": "kl"}, folders)


@pytest.mark.distributed
def test_a_recalibrator_with_more_parts_than_the_run_before_left_is_refused(
    folders: dict[str, Path], stage1_runs: dict[Pair, Path]
) -> None:
    config = config_of(
        {"pair": TO_LLAMA, "stage": 2, "recalibrator": {"num_layers": 3}}, folders, Path("run")
    )
    config["init_from"] = stage1_runs[TO_LLAMA]
    with pytest.raises(ValueError, match=r"left a Recalibrator without rec_body\.layers\.2\..*num_layers"):
        build_student_module(RunConfig.model_validate(config), device=torch.device("cpu"))
