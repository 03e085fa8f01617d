"""The first step of the baselines that compare both models' own heads, against the naive reference."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.covering import Case, pairwise_cases
from tests.helpers.first_step import compare_with_reference, first_step, pair_folders, raw_config
from tests.helpers.one_tokenizer import make_models_of_one_tokenizer
from tests.helpers.rank_pool import RankPool

AXES = {
    "teacher": [(1, 1), (2, 1), (1, 2), (2, 2)],
    "sequence_parallel": [False, True],
    "student_dp": [1, 2],
    "method": ["kl", "reverse_kl", "skew_reverse_kl"],
    "pair": [("internvl", "small_internvl"), ("qwen2_vl", "small_qwen2_vl"), ("internvl", "small_qwen2_vl")],
    "positions": ["all", "answers"],
}
SKEW = 0.3


def is_valid(case: Case) -> bool:
    cuts_images_alike = case["pair"][0] == case["pair"][1].removeprefix("small_")
    return (case["teacher"][0] > 1 or not case["sequence_parallel"]) and (
        cuts_images_alike or case["positions"] == "answers"
    )


def case_id(case: Case) -> str:
    tp, pp = case["teacher"]
    sp = "-sp" if case["sequence_parallel"] else ""
    place = f"tp{tp}-pp{pp}{sp}-student{case['student_dp']}"
    return f"{case['method']}-{case['positions']}-{case['pair'][1]}-{place}"


@pytest.fixture(scope="module")
def one_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models_of_one_tokenizer(tmp_path_factory.mktemp("one_tokenizer"))


def config_of(case: Case, folders: dict[str, Path], run_dir: Path) -> dict[str, Any]:
    config = raw_config(pair_folders(folders, case["pair"]), run_dir, stage=2, method=case["method"])
    tp, pp = case["teacher"]
    config["mesh"] = {
        "teacher": {"tp": tp, "pp": pp, "sequence_parallel": case["sequence_parallel"]},
        "student": {"dp": case["student_dp"]},
    }
    config["train"]["accumulation_steps"] = 6 // case["student_dp"]
    config["distillation"] = {"positions": case["positions"]}
    if case["method"] == "skew_reverse_kl":
        config["distillation"]["skew"] = SKEW
    return config


@pytest.mark.distributed
@pytest.mark.parametrize("case", pairwise_cases(AXES, is_valid), ids=case_id)
def test_losses_and_gradients_of_a_baseline_equal_the_reference(
    case: Case, one_tokenizer: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    tp, pp = case["teacher"]
    config = config_of(case, one_tokenizer, tmp_path / "run")
    results = rank_pool.run(first_step, tp * pp + case["student_dp"], config)
    compare_with_reference(results, {**case, "stage": 2, "skew": SKEW}, one_tokenizer)
