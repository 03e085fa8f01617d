"""A whole study over tiny models: real commands, shared runs, a refused pair, a second start."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.observability import diagnosed_steps
from genrecal_mcore.study import load_grid, run_study
from genrecal_mcore.study.course import course_folder, read_course
from genrecal_mcore.training.checkpoint import checkpoints_of
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import run_cache_pass

pytestmark = pytest.mark.distributed

STEPS = 2


@pytest.fixture(scope="module")
def grid(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Write a grid of three arms and one that its pair cannot serve, and the cache of its teacher."""
    root = tmp_path_factory.mktemp("study")
    images = tiny_folders["data"].parent / "images"
    caching = raw_config(tiny_folders, root / "caches" / "shapes")
    caching["teacher"] |= {"write_cache": root / "caches" / "shapes", "cache_rows": "all"}
    rank_pool.run(run_cache_pass, 2, caching | {"mesh": {"teacher": {}, "student": {"dp": 1}}})
    for stage in (1, 2):
        config = raw_config(tiny_folders, root / "by_hand", stage=stage)
        config["train"] |= {"steps": STEPS, "lr": 1e-2, "checkpoint_every_steps": 1}
        text = json.dumps(config, default=str)
        (root / f"stage{stage}.yaml").write_text(text, encoding="utf-8")
    source = {"path": str(tiny_folders["data"]), "images": str(images)}
    raw = {
        "out": str(root / "out"),
        "prepare": [
            {"command": ["cp", source["path"], f"{root}/heldout.jsonl"], "creates": f"{root}/heldout.jsonl"}
        ],
        "stages": {stage: str(root / f"stage{stage}.yaml") for stage in (1, 2)},
        "pairs": {
            "main": {
                "teacher": str(tiny_folders["teacher"]),
                "student": str(tiny_folders["student"]),
                "caches": str(root / "caches"),
            }
        },
        "tasks": {
            "shapes": {
                "sources": [source],
                "heldout": source | {"path": f"{root}/heldout.jsonl"},
                "max_new_tokens": 4,
            }
        },
        "seeds": [3],
        "reference": "sft",
        "arms": {
            "untouched": {"stages": []},
            "sft": {"method": "sft", "stages": [2]},
            "body": {"stages": [1, 2], "stage_overrides": {2: {"student.lora": None}}},
            "no_kl": {"stages": [1, 2], "stage_overrides": {2: {"loss.kl_weight": 0}}},
            "kl": {"method": "kl", "stages": [2]},
        },
        "diagnose": {"arms": ["body"], "stages": [1], "num_samples": 10},
        "courses": ["sft"],
    }
    path = root / "grid.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def out(grid: Path) -> Path:
    """Run the study once and return its folder."""
    failures = run_study(load_grid(grid), num_workers=2)
    (refused, asked) = failures.values()
    assert refused.reason.startswith("refused before it started: method kl needs one tokenizer")
    assert asked.reason == f"needs {refused.job}, which failed"
    return load_grid(grid).out


def results(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["arm"]: line for line in map(json.loads, lines)}


def test_every_arm_has_a_result_or_the_reason_why_not(out: Path) -> None:
    found = results(out)
    assert list(found) == ["untouched", "sft", "body", "no_kl", "kl"]
    assert found["kl"]["status"] == "failed" and "needs one tokenizer" in found["kl"]["reason"]
    for arm in ("sft", "body", "no_kl"):
        scores = json.loads((Path(found[arm]["run"]) / "evaluation/shapes/scores.json").read_text())
        assert found[arm]["value"] == scores["shapes"]["reported"]["value"]
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert all(f"| main | shapes | {arm} | {arm != 'kl':d} |" in summary for arm in found)
    assert "kl_stage2" in summary and "needs one tokenizer" in summary


def test_stage_1_is_run_once_for_both_arms_and_only_chosen_runs_are_looked_into(out: Path) -> None:
    runs = sorted(path.name.rpartition("_")[0] for path in (out / "runs").iterdir())
    assert runs == ["genrecal_stage1", "genrecal_stage2", "genrecal_stage2", "sft_stage2"]
    trials = json.loads((out / "study.json").read_text(encoding="utf-8"))["trials"]
    of_arm = {trial["arm"]: trial["runs"] for trial in trials}
    assert of_arm["body"]["1"] == of_arm["no_kl"]["1"] and of_arm["body"]["2"] != of_arm["no_kl"]["2"]
    assert [path.parent for path in (out / "runs").glob("*/diagnostics.json")] == [Path(of_arm["body"]["1"])]
    assert list(diagnosed_steps(Path(of_arm["body"]["1"]))) == [0, STEPS]
    course = read_course(course_folder(Path(of_arm["sft"]["2"]), "shapes"))
    assert [(at.progress, at.step) for at in course] == [(1.5, 1), (2.0, 2)]
    assert course[-1].value == results(out)["sft"]["value"]


def test_the_report_has_the_summary_and_figures_of_what_was_asked_for(out: Path) -> None:
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "needs one tokenizer" in page and "Gains over sft" in page
    assert {"gains.png", "courses.png", "losses.png"} < {path.name for path in (out / "figures").iterdir()}


def test_a_body_that_learnt_without_adapters_is_exported_with_all_but_its_embeddings(
    out: Path, tiny_folders: dict[str, Path]
) -> None:
    run = Path(results(out)["body"]["run"])
    exported = load_file(run / "students" / checkpoints_of(run)[-1].name / "student" / "model.safetensors")
    before = load_file(tiny_folders["student"] / "model.safetensors")
    changed = {name for name, tensor in exported.items() if not tensor.equal(before[name])}
    assert changed == {name for name in before if name.startswith(("model.layers.", "model.norm."))}


def test_a_second_start_keeps_what_is_done_and_goes_on_with_what_is_not(
    out: Path, grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(out)
    run = Path(before["sft"]["run"])
    shutil.rmtree(checkpoints_of(run)[-1])  # as if it had been interrupted in its second step
    shutil.rmtree(run / "evaluation")
    kept = (Path(before["body"]["run"]) / "metrics.jsonl").stat().st_mtime_ns
    monkeypatch.setattr("sys.argv", ["genrecal", "study", str(grid)])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    assert caught.value.code == 1
    assert "error: 2 jobs failed: kl_stage2" in capsys.readouterr().err
    assert "resumed at step 1" in (out / "logs" / f"{run.name}.log").read_text(encoding="utf-8")
    assert (Path(before["body"]["run"]) / "metrics.jsonl").stat().st_mtime_ns == kept
    assert results(out) == before
