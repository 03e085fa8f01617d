"""The two conversion scripts as a shell sees them: exit codes and what stands on stderr."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.config import load_teacher_manifest
from tests.helpers.tiny_models import make_tiny_model

SCRIPTS = Path(__file__).parents[2] / "checkpoint_tools"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("source") / "tiny", "qwen2_vl", seed=0)


@pytest.fixture(scope="module")
def teacher(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    convert_to_mcore(source, folder)
    return folder


def run_script(name: str, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / name, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def assert_one_error(run: subprocess.CompletedProcess[str], expected: str) -> None:
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith(expected)


def test_hf2mcore_converts_casts_and_verifies(source: Path, tmp_path: Path) -> None:
    arguments = ("--hf-path", source, "--out", "out", "--dtype", "bfloat16", "--verify")
    run = run_script("hf2mcore.py", *arguments, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    verified = "round trip verified; every rank of tp 1 x pp 1 finds its tensors"
    assert run.stdout == f"{source} -> out ({verified})\n"
    manifest = load_teacher_manifest(tmp_path / "out")
    assert (manifest.dtype, manifest.verified) == ("bfloat16", ("round_trip", "loads_at_tp1_pp1"))


def test_mcore2hf_overwrites_when_asked_to(teacher: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.txt").write_text("of an older export")
    arguments = ("--mcore-path", teacher, "--out", "out", "--overwrite")
    run = run_script("mcore2hf.py", *arguments, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{teacher} -> out\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in source.iterdir()}


def test_hf2mcore_ends_with_one_error_line_and_code_2_for_a_bad_source(source: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    (damaged / "model.safetensors").write_bytes(b"not a checkpoint")
    run = run_script("hf2mcore.py", "--hf-path", damaged, "--out", "out", folder=tmp_path)
    assert_one_error(run, f"error: {damaged / 'model.safetensors'} is not a whole safetensors file")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_mcore2hf_ends_with_one_error_line_and_code_2_for_a_bad_teacher(source: Path, tmp_path: Path) -> None:
    run = run_script("mcore2hf.py", "--mcore-path", source, "--out", "out", folder=tmp_path)
    assert_one_error(run, f"error: teacher.checkpoint: {source / 'teacher.json'} does not exist")
    assert list(tmp_path.iterdir()) == []
