"""What a job that a queue starts again does: begin once, then go on; and what it says when it cannot."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import RunConfig, write_run_config
from genrecal_mcore.observability import read_metrics
from tests.helpers.first_step import raw_config

pytestmark = pytest.mark.distributed


def torchrun(*args: str | Path, ranks: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "genrecal_mcore.cli.main", "train", *map(str, args)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def config_file(folders: dict[str, Path], tmp_path: Path, **train: Any) -> Path:
    config = raw_config(folders, tmp_path / "run")
    config["mesh"] = {"teacher": {}, "student": {"dp": 1}}
    config["train"] |= {"steps": 2, "checkpoint_every_steps": 1} | train
    path = tmp_path / "given.yaml"
    write_run_config(RunConfig.model_validate(config), path)
    return path


def test_the_same_command_begins_a_run_and_goes_on_with_it(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    given = config_file(tiny_folders, tmp_path)
    first = torchrun(given, "--resume-or-begin", ranks=2)
    assert first.returncode == 0, first.stderr
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = torchrun(given, "--resume-or-begin", ranks=2)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 2


def test_bad_input_is_said_once_although_torchrun_ends_all_ranks_with_the_first(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    given = config_file(tiny_folders, tmp_path)
    done = torchrun(given, "--resume", ranks=2)
    assert done.returncode != 0
    assert done.stderr.count("error: run.dir: ") == 1
    assert "holds no run to resume" in done.stderr
