"""A baseline as whole runs: distilled, fine-tuned, exported, and refused where the models do not fit."""

from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.observability import read_metrics
from genrecal_mcore.training import export_student
from tests.helpers.first_step import pair_folders, raw_config
from tests.helpers.one_tokenizer import make_models_of_one_tokenizer
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import train_run

pytestmark = pytest.mark.distributed

STEPS = 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models_of_one_tokenizer(tmp_path_factory.mktemp("one_tokenizer"))


def stage_2(folders: dict[str, Path], student: str, run_dir: Path) -> dict[str, Any]:
    config = raw_config(pair_folders(folders, ("internvl", student)), run_dir, stage=2, method="kl")
    config["mesh"] = {"teacher": {}, "student": {"dp": 1}}
    config["train"]["steps"] = STEPS
    return config


def test_a_baseline_goes_on_to_fine_tuning_and_exports_a_student_alone(
    folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = stage_2(folders, "small_internvl", tmp_path / "stage2")
    rank_pool.run(train_run, 2, config)
    config |= {"stage": 3, "init_from": tmp_path / "stage2", "run": {"dir": tmp_path / "stage3"}}
    rank_pool.run(train_run, 1, config | {"teacher": None, "mesh": {"student": {"dp": 1}}})

    lines = read_metrics(tmp_path / "stage2" / "metrics.jsonl")
    assert len(lines) == STEPS
    for line in lines:
        assert line["loss"] == pytest.approx(line["ce_student"] + line["kl_student"])
        assert line["kl_student"] > 0 and line["ce_recal"] is None
    export_student(tmp_path / "stage3", tmp_path / "export")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["student"]


def test_a_pair_with_other_tokens_is_refused_before_anything_is_written(
    folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = stage_2(folders, "small_qwen2_vl", tmp_path / "run")
    outcomes = rank_pool.outcomes(train_run, 2, config)
    assert all("needs the same tokens on both sides" in (outcome.error or "") for outcome in outcomes)
    assert not (tmp_path / "run").exists()
