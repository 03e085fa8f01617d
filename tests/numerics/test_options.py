"""The first step of the options beyond the paper, against the naive reference."""

from pathlib import Path

import pytest

from tests.helpers.covering import Case, pairwise_cases
from tests.helpers.first_step import compare_with_reference, first_step, pair_folders, raw_config
from tests.helpers.rank_pool import RankPool
from tests.numerics.conftest import PAIRS, Pair

AXES = {
    "teacher": [(1, 1), (2, 1), (2, 2)],
    "student_dp": [1, 2],
    "stage": [1, 2],
    "pair": PAIRS,
    "answer_input": ["features", "embeddings", "masked"],
    "student_answers": [False, True],
    "position_weighting": ["tokens", "boundary_and_rest"],
    "measures_gradients": [False, True],
}


def is_valid(case: Case) -> bool:
    published = case["answer_input"] == "features" and case["position_weighting"] == "tokens"
    return (not published or case["measures_gradients"]) and (
        case["answer_input"] == "embeddings" or not case["student_answers"]
    )


def case_id(case: Case) -> str:
    tp, pp = case["teacher"]
    options = f"{case['answer_input']}-{case['position_weighting']}"
    options += "-own" if case["student_answers"] else ""
    options += "-measured" if case["measures_gradients"] else ""
    return f"{options}-tp{tp}-pp{pp}-student{case['student_dp']}-stage{case['stage']}-{case['pair'][0]}"


@pytest.mark.distributed
@pytest.mark.parametrize("case", pairwise_cases(AXES, is_valid), ids=case_id)
def test_losses_and_gradients_of_an_option_equal_the_reference(
    case: Case, folders: dict[str, Path], stage1_runs: dict[Pair, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    tp, pp = case["teacher"]
    config = raw_config(pair_folders(folders, case["pair"]), tmp_path / "run", stage=case["stage"])
    config["mesh"] = {"teacher": {"tp": tp, "pp": pp}, "student": {"dp": case["student_dp"]}}
    config["train"]["accumulation_steps"] = 6 // case["student_dp"]
    config["train"]["diagnostics_every_steps"] = 1 if case["measures_gradients"] else None
    config["recalibrator"] = {name: case[name] for name in ("answer_input", "student_answers")}
    config["loss"] = {"position_weighting": case["position_weighting"]}
    if case["stage"] == 2:
        config["init_from"] = stage1_runs[case["pair"]]

    results = rank_pool.run(first_step, tp * pp + case["student_dp"], config)

    compare_with_reference(results, case, folders)
