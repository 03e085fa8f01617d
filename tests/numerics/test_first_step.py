"""The distributed run against the naive single-process reference: every loss term, every gradient."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.covering import Case, all_cases, pairwise_cases
from tests.helpers.first_step import compare_with_reference, first_step, pair_folders, raw_config
from tests.helpers.rank_pool import RankPool
from tests.numerics.conftest import PAIRS

UNEVEN_SPLITS = {(1, 2, 1): (1, 3), (2, 2, 2): (3, 1)}
"""Layers of each pipeline stage, by the teacher's degrees; other meshes share them out evenly."""

KEEPING = {
    "shards": {},
    "keeps-weights": {"reshard_after_forward": False},
    "reduces-each": {"reduce_every_microbatch": True},
}
"""How student ranks keep weights and gradients: fields of `train`."""

AXES = {
    "teacher": [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2), (2, 2, 2)],
    "student_dp": [1, 2, 3],
    "stage": [1, 2],
    "pair": PAIRS,
    "sequence_parallel": [False, True],
    "keeping": list(KEEPING),
}


def is_valid(case: Case) -> bool:
    return case["teacher"][0] > 1 or not case["sequence_parallel"]


FAST = pairwise_cases(AXES, is_valid)
SLOW = [case for case in all_cases(AXES, is_valid) if case not in FAST]


def case_id(case: Case) -> str:
    tp, pp, dp = case["teacher"]
    sp = "-sp" if case["sequence_parallel"] else ""
    student = f"student{case['student_dp']}-{case['keeping']}"
    return f"tp{tp}-pp{pp}-dp{dp}{sp}-{student}-stage{case['stage']}-{case['pair'][0]}"


@pytest.mark.distributed
@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=case_id(case)) for case in FAST),
        *(pytest.param(case, id=case_id(case), marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_losses_and_gradients_equal_the_reference(
    case: Case, folders: dict[str, Path], stage1_runs: dict[Any, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    tp, pp, dp = case["teacher"]
    config = raw_config(pair_folders(folders, case["pair"]), tmp_path / "run", stage=case["stage"])
    config["mesh"] = {
        "teacher": {
            "tp": tp,
            "pp": pp,
            "dp": dp,
            "sequence_parallel": case["sequence_parallel"],
            "layers_per_stage": UNEVEN_SPLITS.get(case["teacher"]),
        },
        "student": {"dp": case["student_dp"]},
    }
    config["train"]["accumulation_steps"] = {1: 6, 2: 3, 3: 2}[case["student_dp"]]
    config["train"] |= KEEPING[case["keeping"]]
    if case["stage"] == 2:
        config["init_from"] = stage1_runs[case["pair"]]

    results = rank_pool.run(first_step, tp * pp * dp + case["student_dp"], config)

    compare_with_reference(results, case, folders)
