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

    def call(
        verb: str, *arguments: str, world_size: int = 4, has_config: bool = True
    ) -> tuple[int, str, str]:
        given = [str(tmp_path / "given.yaml")] if has_config else []
        monkeypatch.setattr("sys.argv", ["genrecal", verb, *given, *arguments])
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


def test_a_gpu_type_adds_times_and_what_they_assume(run: Run) -> None:
    code, out, err = run("plan", "--gpu", "A100-40G", "--teacher-tokens", "60", "--answer-tokens", "9")
    assert (code, err) == (0, "")
    assert "Every rank fits into the 39.4 GiB of a GPU" in out
    assert "what a unit costs a rank, on average" in out and "teacher stage 1" in out
    assert "A step of 4 samples takes" in out and "days for 4 samples" in out
    assert "45% of peak flops for products with weights" in out and "NVIDIA A100 data sheet" in out


PAIR = ("--teacher", "internvl2.5-8b", "--student", "INTERNVL2.5-1b", "--gpus", "8", "--gpu", "h100-80g")


def test_without_a_configuration_it_compares_layouts_and_prints_keys(run: Run) -> None:
    code, out, err = run("plan", *PAIR, "--top", "2", "train.lr=2e-4", has_config=False)
    assert (code, err) == (0, "")
    assert "teacher tp x pp x dp" in out and "ZeRO-3 over the same 8 GPUs" in out
    assert "The paper took 5 to 7 days" in out
    keys = out.rstrip().splitlines()[-1].split()
    assert keys[0].startswith("mesh.teacher.tp=") and "transfer.prefetch=4" in keys


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "8"), "--student is missing; name a CONFIG, or both models"),
        (("--student", "qwen2-vl-2b"), "--gpus is missing"),
        (("--student", "qwen2-vl-2b", "--gpus", "8"), "--teacher is missing; stage 2 needs one"),
        (PAIR[:-2], "--gpu is missing"),
        ((*PAIR[:-1], "v100"), "--gpu v100 is not known; did you mean"),
        (("--teacher", "internvl2.5-9b", *PAIR[2:]), "did you mean InternVL2.5-"),
        ((*PAIR, "train.lrr=1"), "train.lrr is not a key"),
    ],
)
def test_a_question_that_lacks_something_is_refused(
    arguments: tuple[str, ...], message: str, run: Run
) -> None:
    code, out, err = run("plan", *arguments, has_config=False)
    assert (code, out) == (2, "") and message in err


def test_samples_longer_than_the_run_accepts_are_refused(run: Run) -> None:
    code, _, err = run("plan", "--gpu", "h200", "data.max_tokens=192")
    assert code == 2 and "samples of 2500 tokens on average have up to 3750" in err


@pytest.mark.parametrize(
    ("arguments", "has_config", "message"),
    [
        (PAIR, True, "--teacher, --student, --gpus: only layouts are proposed so; leave CONFIG out"),
        ((*PAIR, "--ranks", "8"), False, "--ranks: only a run is checked so; name its CONFIG"),
        (("--samples", "9e6"), True, "--samples: only times are predicted so; name a --gpu"),
    ],
    ids=["layouts-of-a-run", "ranks-of-no-run", "time-without-a-gpu"],
)
def test_an_option_that_would_do_nothing_is_refused(
    arguments: tuple[str, ...], has_config: bool, message: str, run: Run
) -> None:
    code, out, err = run("plan", *arguments, has_config=has_config)
    assert (code, out) == (2, "") and message in err
