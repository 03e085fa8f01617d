"""Pairs of tiny models, and a step of stage 1 for each: what first steps are computed from."""

from pathlib import Path

import pytest

from checkpoint_tools.conversion import convert_to_mcore
from tests.helpers.first_step import pair_folders, raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_run import train_run

Pair = tuple[str, str]

PAIRS: list[Pair] = [("internvl_qwen2", "qwen2_vl"), ("qwen2_vl", "internvl_llama")]


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    made = {"data": make_tiny_dataset(root / "data", 12, seed=5)}
    for seed, kind in enumerate(sorted({kind for pair in PAIRS for kind in pair})):
        made[kind] = make_tiny_model(root / kind, kind, seed=seed)
        made[f"{kind}_teacher"] = root / f"{kind}_teacher"
        convert_to_mcore(made[kind], made[f"{kind}_teacher"])
    return made


@pytest.fixture(scope="package")
def stage1_runs(
    folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[Pair, Path]:
    """Train one step of stage 1 for each pair, for stage 2 to start from."""
    runs = {}
    for pair in PAIRS:
        run_dir = tmp_path_factory.mktemp("stage1") / "run"
        config = raw_config(pair_folders(folders, pair), run_dir)
        config["mesh"] = {"teacher": {}, "student": {"dp": 1}}
        rank_pool.run(train_run, 2, config)
        runs[pair] = run_dir
    return runs
