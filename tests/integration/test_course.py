"""A run's student at each checkpoint that the run kept: exported, and asked."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.evaluation import BenchmarkFile, evaluate_model
from genrecal_mcore.study.course import evaluate_checkpoints, read_course
from genrecal_mcore.training import exported_student
from genrecal_mcore.training.checkpoint import checkpoint_of_step, read_model_tensors
from tests.helpers.evaluation_run import SETTINGS
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import train_run

pytestmark = pytest.mark.distributed

STEPS = 2


@pytest.fixture(scope="module")
def runs(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Train two steps of each stage, so fast that every step changes what the student says."""
    root = tmp_path_factory.mktemp("fifths")
    folders = {stage: root / f"stage{stage}" for stage in (1, 2, 3)}
    for stage, folder in folders.items():
        config = raw_config(tiny_folders, folder, stage=stage)
        config |= {"mesh": {"student": {"dp": 1}}, "init_from": folders.get(stage - 1)}
        config["train"] |= {"steps": STEPS, "lr": 0.1, "lr_final": 0.1, "checkpoint_every_steps": 1}
        if stage == 3:
            config["teacher"] = None
        else:
            config["mesh"]["teacher"] = {}
        rank_pool.run(train_run, 1 + (stage < 3), config)
    return folders


@pytest.fixture(scope="module")
def benchmark(runs: dict[int, Path], tiny_folders: dict[str, Path]) -> BenchmarkFile:
    """Questions whose right answers are what the student of stage 3 says after its first step."""
    lines = tiny_folders["data"].read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["conversations"][2:]
    root = runs[3].parent
    evaluate_model(
        exported_student(runs[3], step=1),
        [written(root / "asked.jsonl", records, tiny_folders)],
        out=root / "said",
        settings=SETTINGS,
    )
    lines = (root / "said" / "asked" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    for record, line in zip(records, lines, strict=True):
        record["conversations"][1]["value"] = json.loads(line)["prediction"]
    said = [record for record in records if record["conversations"][1]["value"].strip()]
    return written(root / "said.jsonl", said, tiny_folders)


def written(path: Path, records: list[dict[str, Any]], folders: dict[str, Path]) -> BenchmarkFile:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return BenchmarkFile.parse(str(path), images_dir=folders["data"].parent / "images")


def test_the_student_of_a_chosen_step_is_what_its_checkpoint_holds(runs: dict[int, Path]) -> None:
    exported = {
        step: load_file(exported_student(runs[3], step=step) / "model.safetensors") for step in (1, 2)
    }
    for step, tensors in exported.items():
        learnt = read_model_tensors(checkpoint_of_step(runs[3], step), "student.model.language_model.")
        assert learnt
        for name, tensor in learnt.items():
            assert torch.equal(tensors[f"model.{name}"], tensor)
    assert any(not torch.equal(exported[1][name], exported[2][name]) for name in exported[1])
    assert exported_student(runs[3]) == exported_student(runs[3], step=STEPS)


def test_a_student_that_is_asked_for_twice_at_once_is_exported_once(runs: dict[int, Path]) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: exported_student(runs[2], step=1), range(2))
    assert first == second and (first / "model.safetensors").is_file()
    assert [path.name for path in first.parent.parent.iterdir() if path.name.startswith(".partial")] == []


def test_every_checkpoint_of_every_stage_is_asked(runs: dict[int, Path], benchmark: BenchmarkFile) -> None:
    course = []
    for run in runs.values():
        course += evaluate_checkpoints(run, [benchmark], out=run / "accuracy", settings=SETTINGS)
        assert read_course(run / "accuracy") == course[-STEPS:]
    assert [(at.stage, at.step, at.progress) for at in course] == [
        (1, 1, 0.5),
        (1, 2, 1.0),
        (2, 1, 1.5),
        (2, 2, 2.0),
        (3, 1, 2.5),
        (3, 2, 3.0),
    ]
    *before, after_first, last = [at.value for at in course]
    assert after_first == 1.0
    assert max(*before, last) < 1.0
    assert len(list((runs[1] / "students").glob("step_*"))) == 1  # stage 1 does not change it


def test_the_command_asks_every_checkpoint_and_refuses_a_run_without_one(
    runs: dict[int, Path],
    benchmark: BenchmarkFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for run, code in ((runs[1], 0), (tmp_path / "empty", 2)):
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_bytes((runs[1] / "config.yaml").read_bytes())
        files = ["--benchmark", str(benchmark.path), "--images", str(benchmark.images_dir)]
        command = ["genrecal", "evaluate", str(run), *files, "--out", str(tmp_path / run.name)]
        monkeypatch.setattr("sys.argv", [*command, "--max-new-tokens", "1", "--every-checkpoint"])
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        assert caught.value.code == code
    captured = capsys.readouterr()
    assert "said" in captured.out and "step" in captured.out
    assert "holds no checkpoint" in captured.err
    assert [at.step for at in read_course(tmp_path / "stage1")] == [1, 2]
