"""`genrecal profile` on a tiny run, and a plan that uses what it wrote."""

from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.config import RunConfig, write_run_config
from genrecal_mcore.planning import load_profile
from genrecal_mcore.planning.costs import Op
from tests.helpers.first_step import pair_folders, raw_config
from tests.helpers.one_tokenizer import make_models_of_one_tokenizer

pytestmark = pytest.mark.distributed

MOVED = {Op.TENSOR_PARALLEL, Op.COLLECTIVE_CALLS, Op.PIPELINE, Op.FEATURES, Op.GATHERS, Op.REDUCTION}
STUDENT = {
    Op.STUDENT_LINEARS,
    Op.STUDENT_ATTENTION,
    Op.STUDENT_VISION,
    Op.STUDENT_HEAD,
    Op.STUDENT_UNIT_CALLS,
    Op.STUDENT_LOADING,
    Op.OPTIMIZER,
}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["genrecal", *arguments])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    return int(caught.value.code or 0)


def write_config(path: Path, raw: dict[str, Any]) -> str:
    write_run_config(RunConfig.model_validate(raw), path)
    return str(path)


def test_a_profile_measures_every_operation_and_a_plan_uses_it(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = raw_config(tiny_folders, tmp_path / "run", mesh={"teacher": {"pp": 2}, "student": {"dp": 2}})
    raw |= {"stage": 2, "init_from": tmp_path / "no_need_of_it"}
    config, out = write_config(tmp_path / "run.yaml", raw), tmp_path / "profile.json"
    assert call(monkeypatch, "profile", config, "--out", str(out), "--rounds", "1") == 0
    assert "what it reaches" in capsys.readouterr().out
    profile = load_profile(out)
    assert profile.seconds_per.keys() == set(Op) - {Op.ELEMENTWISE}
    assert all(seconds >= 0.0 for seconds in profile.seconds_per.values())
    sure = (Op.COLLECTIVE_CALLS, Op.FEATURES, Op.OPTIMIZER, Op.RENDERING)
    assert all(profile.seconds_per[op] > 0.0 for op in sure)
    assert 0.0 < profile.crowded_pace <= 1.0
    assert call(monkeypatch, "profile", config, "--out", str(out)) == 2
    assert "exists; choose another --out or pass --overwrite" in capsys.readouterr().err

    raw = raw_config(tiny_folders, tmp_path / "run", mesh=raw["mesh"])
    config = write_config(tmp_path / "stage1.yaml", raw)
    keys = ("--gpu", "cpu", "--profile", str(out), "--teacher-tokens", "60", "--answer-tokens", "9")
    assert call(monkeypatch, "plan", config, *keys) == 2
    assert "--profile was measured with stage 2, but this run has 1" in capsys.readouterr().err


def test_a_stage_without_a_teacher_is_profiled_without_one(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_config(tiny_folders, tmp_path / "run", stage=2, method="sft", teacher=None)
    config, out = write_config(tmp_path / "run.yaml", raw), tmp_path / "profile.json"
    assert call(monkeypatch, "profile", config, "--out", str(out), "--rounds", "1") == 0
    assert load_profile(out).seconds_per.keys() == STUDENT | MOVED
    keys = ("--gpu", "cpu", "--profile", str(out), "--teacher-tokens", "60", "--answer-tokens", "9")
    assert call(monkeypatch, "plan", config, *keys) == 0


@pytest.mark.slow
def test_a_baseline_is_profiled_with_both_heads_and_no_recalibrator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = pair_folders(make_models_of_one_tokenizer(tmp_path), ("internvl", "small_internvl"))
    mesh = {"teacher": {}, "student": {"dp": 1}}
    raw = raw_config(folders, tmp_path / "run", stage=2, method="kl", mesh=mesh)
    config, out = write_config(tmp_path / "run.yaml", raw), tmp_path / "profile.json"
    assert call(monkeypatch, "profile", config, "--out", str(out), "--rounds", "1") == 0
    assert load_profile(out).seconds_per.keys() == set(Op) - {Op.ELEMENTWISE, Op.RECALIBRATOR}
