"""`genrecal plan`: the table, the refusals, and that it refuses what `genrecal train` refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.config import RunConfig, write_run_config
from tests.helpers.first_step import raw_config

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Give a function that runs a verb on a run of four ranks; it returns exit code, output and errors."""
    config = raw_config(tiny_folders, tmp_path / "run")
    config["mesh"] = {"teacher": {"pp": 2}, "student": {"dp": 2}}
    write_run_config(RunConfig.model_validate(config), tmp_path / "given.yaml")

    def call(verb: str, *arguments: str, world_size: int = 4) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["genrecal", verb, str(tmp_path / "given.yaml"), *arguments])
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        assert not dist.is_initialized()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def test_it_shows_a_table_and_says_that_nothing_was_compared(run: Run, tmp_path: Path) -> None:
    code, out, err = run("plan")
    assert (code, err) == (0, "")
    header = next(line for line in out.splitlines() if "memory a rank" in line)
    labels = ["teacher stage 0, rank 0", "teacher stage 1, rank 1", "student, ranks 2-3"]
    assert [cell.strip() for cell in header.strip("┃ ").split("┃")[1:]] == labels
    assert "activations (estimate)" in out and "sum" in out
    assert "Memory was not compared" in out
    assert not (tmp_path / "run").exists()


def test_it_says_how_full_the_fullest_rank_is(run: Run) -> None:
    code, out, _ = run("plan", "--gpu-memory-gib", "80", "--ranks", "4")
    assert code == 0
    assert "Every rank fits into the 80.0 GiB of a GPU; the fullest is student, ranks 2-3" in out


def test_it_refuses_a_gpu_that_is_too_small_and_shows_the_table_all_the_same(run: Run) -> None:
    code, out, err = run("plan", "--gpu-memory-gib", "0.5", "loss.memory_budget_mib=600")
    assert code == 2
    assert "loss budget" in out and "fits" not in out
    assert "error: student, ranks 2-3: needs" in err and "a GPU has 512.0 MiB" in err
    assert "the largest part is" in err and "lower loss.memory_budget_mib" in err


def test_it_asks_for_a_gpu_memory_that_is_above_zero(run: Run) -> None:
    assert run("plan", "--gpu-memory-gib", "0")[2] == "error: --gpu-memory-gib must be above 0, found 0\n"


@pytest.mark.parametrize(
    "overrides",
    [
        ("mesh.teacher.tp=3", "mesh.teacher.pp=3"),
        ("mesh.teacher.layers_per_stage=[1, 1]",),
        ("teacher.checkpoint=nowhere",),
        ("train.micro_batch=2",),
        ("stage=2", "method=kl"),
    ],
    ids=["indivisible", "layers-left-over", "no-teacher", "unknown-key", "other-tokenizer"],
)
def test_it_refuses_in_the_words_of_train(overrides: tuple[str, ...], run: Run) -> None:
    world_size = 11 if "mesh.teacher.tp=3" in overrides else 4
    expected = run("train", *overrides, world_size=world_size)
    assert expected[0] == 2
    assert run("plan", *overrides) == expected


def test_meshes_that_do_not_tile_the_ranks_are_refused_in_the_words_of_train(run: Run) -> None:
    code, out, err = run("plan", "--ranks", "6")
    assert (code, out, err) == run("train", world_size=6)
    assert "the meshes need 4 ranks" in err and "but the job has 6" in err


def test_a_stage_2_without_a_run_to_start_from_is_refused_in_the_words_of_train(
    run: Run, tmp_path: Path
) -> None:
    overrides = ("stage=2", f"init_from={tmp_path / 'nothing'}")
    assert run("plan", *overrides) == run("train", *overrides)
    assert "holds no checkpoint; train that run first" in run("plan", *overrides)[2]


def test_a_student_with_truncated_weights_is_refused_in_the_words_of_train(
    run: Run, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(tiny_folders["student"], student)
    weights = student / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    override = f"student.checkpoint={student}"
    assert run("plan", override) == run("train", override)
    assert run("plan", override)[0] == 2


def test_a_vocabulary_that_the_loss_budget_cannot_hold_is_refused(
    run: Run, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_folders["teacher"], teacher)
    manifest = json.loads((teacher / "teacher.json").read_text())
    manifest["language"]["vocab_size"] = 10**5
    (teacher / "teacher.json").write_text(json.dumps(manifest))
    code, out, err = run("plan", f"teacher.checkpoint={teacher}", "loss.memory_budget_mib=1")
    assert (code, out) == (2, "") and "do not hold one row of logits over 100000 tokens" in err
