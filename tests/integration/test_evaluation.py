"""Evaluations on several ranks, killed ones, and the command itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genrecal_mcore.cli import main as command_line
from tests.helpers.evaluation_run import evaluate_files, evaluate_until_rank_dies
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_benchmarks import choice_row, rotated_rows, write_tsv
from tests.helpers.tiny_models import make_tiny_model

pytestmark = [pytest.mark.evaluation, pytest.mark.distributed]

RESULTS = ("predictions.jsonl", "scores.json", "left_out.jsonl")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), "internvl_qwen2", seed=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("files")
    rows = [choice_row(n, question="why? " * (n % 5 + 1)) for n in range(30)]
    rows[7]["answer"] = "E"
    circular = [row for n in range(3) for row in rotated_rows(n)]
    return [
        write_tsv(root / "MMStar.tsv", [*rows, *[choice_row(n) for n in range(100, 170)]]),
        write_tsv(root / "MMBench_DEV_EN.tsv", circular),
    ]


@pytest.fixture(scope="module")
def alone(model_dir: Path, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    evaluate_files(model_dir, files, out)
    return out


def assert_equal_results(out: Path, expected: Path, files: list[Path]) -> None:
    for path in files:
        for name in RESULTS:
            assert (out / path.stem / name).read_bytes() == (expected / path.stem / name).read_bytes()


def test_two_ranks_answer_what_one_answers_bit_for_bit(
    alone: Path, model_dir: Path, files: list[Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    rank_pool.run(evaluate_files, 2, model_dir, files, tmp_path)
    assert_equal_results(tmp_path, alone, files)
    batches = [len(part.read_text().splitlines()) for part in (tmp_path / "MMStar" / "parts").iterdir()]
    assert len(batches) == 2
    assert abs(batches[0] - batches[1]) <= 1


@pytest.mark.parametrize("dying_rank", [0, 1])
def test_a_killed_rank_ends_all_and_what_is_answered_is_not_asked_again(
    dying_rank: int, alone: Path, model_dir: Path, files: list[Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    outcomes = rank_pool.outcomes(evaluate_until_rank_dies, 2, model_dir, files, tmp_path, dying_rank)
    assert outcomes[dying_rank].exit_code == -9
    assert outcomes[1 - dying_rank].error is not None  # it did not wait for the dead one
    parts = {path: path.read_bytes() for path in (tmp_path / "MMStar" / "parts").iterdir()}
    assert not (tmp_path / "scores.json").exists()
    evaluate_files(model_dir, files, tmp_path)
    assert_equal_results(tmp_path, alone, files)
    for path, written in parts.items():
        assert path.read_bytes().startswith(written)
    numbers = [
        json.loads(line)["batch"]
        for path in (tmp_path / "MMStar" / "parts").iterdir()
        for line in path.read_text().splitlines()
    ]
    assert len(numbers) == len(set(numbers))


def test_bad_input_is_the_same_error_on_every_rank(
    model_dir: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    path = tmp_path / "MMStar.tsv"
    path.write_text("index\tquestion\n1\twhy?\n")
    outcomes = rank_pool.outcomes(evaluate_files, 2, model_dir, [path], tmp_path / "out")
    for outcome in outcomes:
        assert "MMStar.tsv lacks the columns answer, image" in str(outcome.error)


def test_the_command_evaluates_under_torchrun_and_shows_each_benchmark(
    alone: Path, model_dir: Path, files: list[Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "genrecal_mcore.cli.main", "evaluate", str(model_dir), "--out", str(tmp_path)]
    command += [f"--benchmark={path}" for path in files]
    command += ["--batch-tokens=600", "--max-new-tokens=6", "--num-workers=1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert_equal_results(tmp_path, alone, files)
    assert done.stdout.count("MMStar") == done.stdout.count("category: odd") + 1 == 3
    assert "MMStar: 1 broken rows were left out" in done.stdout


def test_the_command_says_what_is_wrong_and_leaves_with_code_2(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(model_dir), f"--benchmark={tmp_path}/gone.tsv", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["genrecal", *arguments])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    assert caught.value.code == 2
    assert "gone.tsv does not exist; expected FILE or NAME=FILE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
