"""Bad input to `genrecal train`: exit code 2, one message that names the cause, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.config import RunConfig, write_run_config
from tests.helpers.first_step import raw_config

Refused = Callable[..., str]


@pytest.fixture
def refused(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Refused:
    """Give a function that runs `genrecal train` as rank 0 of a job, and returns its one message."""

    def run(*overrides: str, world_size: int = 3, resume: bool = False) -> str:
        config = raw_config(tiny_folders, tmp_path / "run")
        config["mesh"] = {"teacher": {"tp": 2}, "student": {"dp": 1}}
        write_run_config(RunConfig.model_validate(config), tmp_path / "given.yaml")
        arguments = ["genrecal", "train", str(tmp_path / "given.yaml"), *overrides]
        monkeypatch.setattr("sys.argv", arguments + ["--resume"] * resume)
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        if dist.is_initialized():  # a process that ends leaves its group; this one goes on
            dist.destroy_process_group()
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.err.count("error: ") == 1 and "Traceback" not in captured.err
        assert captured.out == ""
        return captured.err

    return run


def test_a_mesh_that_does_not_tile_the_job(refused: Refused, tmp_path: Path) -> None:
    message = refused(world_size=4)
    assert "need 3 ranks (teacher tp 2 x pp 1 x dp 1 = 2, student dp 1), but the job has 4" in message
    assert "start 3 processes or change mesh.teacher or mesh.student.dp" in message
    assert not (tmp_path / "run").exists()


def test_layers_and_heads_that_the_mesh_does_not_divide(refused: Refused, tmp_path: Path) -> None:
    message = refused("mesh.teacher.tp=3", "mesh.teacher.pp=3", world_size=10)
    assert "the teacher has 4 layers, which mesh.teacher.pp (3) does not divide" in message
    assert "4 attention heads, which mesh.teacher.tp (3)" in message
    assert not (tmp_path / "run").exists()


def test_layers_that_the_stages_do_not_add_up_to(refused: Refused, tmp_path: Path) -> None:
    message = refused("mesh.teacher.pp=3", "mesh.teacher.layers_per_stage=[1, 1, 1]", world_size=7)
    assert "mesh.teacher.layers_per_stage [1, 1, 1] adds up to 3, but the teacher has 4 layers" in message
    assert "does not divide" not in message
    assert not (tmp_path / "run").exists()


def test_stage_2_without_a_stage_1_run(refused: Refused, tmp_path: Path) -> None:
    message = refused("stage=2", f"init_from={tmp_path / 'nothing'}")
    assert f"init_from: {tmp_path / 'nothing'} holds no checkpoint; train that run first" in message
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_holds_a_run(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n')
    assert "holds a run already; pass --resume or choose another run.dir" in refused()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_resume_of_nothing(refused: Refused, tmp_path: Path) -> None:
    assert "holds no run to resume" in refused(resume=True)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_family_than_it_says(
    refused: Refused, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_folders["teacher"], teacher)
    config = json.loads((teacher / "vision" / "config.json").read_text())
    (teacher / "vision" / "config.json").write_text(json.dumps(config | {"model_type": "qwen2_vl"}))
    message = refused(f"teacher.checkpoint={teacher}")
    assert "teacher.json says family internvl" in message and "is of family qwen2_vl" in message


def test_a_folder_that_is_no_teacher(refused: Refused, tiny_folders: dict[str, Path]) -> None:
    message = refused(f"teacher.checkpoint={tiny_folders['teacher_hf']}")
    assert "expected a folder written by checkpoint_tools/hf2mcore.py" in message


@pytest.mark.parametrize("edit", ["missing", "truncated"])
def test_a_student_without_whole_weights(
    edit: str, refused: Refused, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_folders["student"], student)
    weights = student / "model.safetensors"
    if edit == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    message = refused(f"student.checkpoint={student}")
    assert "student.checkpoint" in message and str(student) in message
    assert not (tmp_path / "run").exists()


def test_more_checkpointed_layers_than_the_student_has(
    refused: Refused, tiny_folders: dict[str, Path]
) -> None:
    student = tiny_folders["student"]
    message = refused(*ALONE, "train.checkpointed_layers=5", world_size=1)
    assert f"train.checkpointed_layers is 5, but the student in {student} has 4 decoder layers" in message


def broken_data(folders: dict[str, Path], tmp_path: Path, edit: Callable[[list[str]], None]) -> str:
    """Return an override that names a copy of the data whose lines `edit` changed."""
    lines = folders["data"].read_text().splitlines()
    edit(lines)
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines) + "\n")
    sources = [{"path": str(path), "images": str(folders["data"].parent / "images")}]
    return f"data.sources={yaml.safe_dump(sources, default_flow_style=True, width=10**6).strip()}"


ALONE = ("method=sft", "stage=2", "teacher=null", "mesh.teacher=null")
"""A run of a single process: what is broken is found after the process group is made."""


def test_a_data_file_with_a_syntax_error_is_named_with_its_line(
    refused: Refused, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    def edit(lines: list[str]) -> None:
        lines[4] = lines[4][:-1]

    message = refused(*ALONE, broken_data(tiny_folders, tmp_path, edit), world_size=1)
    assert f"{tmp_path / 'broken.jsonl'}, line 5, column" in message and "not JSON" in message


def test_more_broken_samples_than_allowed_are_counted_by_reason(
    refused: Refused, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    def edit(lines: list[str]) -> None:
        lines[0] = lines[0].replace("<image>", "<image><image>", 1)
        lines[1] = lines[1].replace(".png", ".gone", 1)

    data = broken_data(tiny_folders, tmp_path, edit)
    message = refused(*ALONE, data, "data.max_skipped_share=0.1", world_size=1)
    assert "2 of 12 samples are broken, more than data.max_skipped_share (0.1) allows" in message
    assert "N <image> placeholders for N images" in message and "does not exist" in message
    assert "broken number 1, broken number 2" in message
