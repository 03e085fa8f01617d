"""Whole evaluations in one process, on tiny models and real images."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from genrecal_mcore.evaluation import BenchmarkFile, BenchmarkScores, EvaluationSettings, evaluate_model
from tests.helpers.tiny_benchmarks import choice_row, rotated_rows, write_tsv
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.evaluation

SETTINGS = EvaluationSettings(batch_tokens=700, max_new_tokens=6, num_workers=0, device="cpu")
BROKEN = {"image": "A" * 80}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), "qwen2_vl", seed=1)


def evaluate(model_dir: Path, out: Path, *files: Path | str, **changes: Any) -> dict[str, BenchmarkScores]:
    parsed = [BenchmarkFile.parse(str(file)) for file in files]
    return evaluate_model(model_dir, parsed, out=out, settings=replace(SETTINGS, **changes))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_turn_of_conversations_is_asked_and_scored(model_dir: Path, tmp_path: Path) -> None:
    data_file = make_tiny_dataset(tmp_path / "data", 12, seed=3)
    file = BenchmarkFile(name="tiny", path=data_file, images_dir=data_file.parent / "images")
    scores = evaluate_model(model_dir, [file], out=tmp_path / "out", settings=SETTINGS)["tiny"]
    predictions = lines(tmp_path / "out" / "tiny" / "predictions.jsonl")
    turns = [len(record["conversations"]) // 2 for record in lines(data_file)]
    assert scores.all.num == len(predictions) == sum(turns)
    assert [line["index"] for line in predictions[:4]] == [
        "sample-000",
        "sample-001:1",
        "sample-001:2",
        "sample-002",
    ]
    assert scores.all.num_correct == sum(line["is_correct"] for line in predictions)
    assert sum(tally.num for tally in scores.groups["form"].values()) == scores.all.num
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert written["tiny"]["reported"]["value"] == scores.all.accuracy


def test_several_benchmarks_are_scored_each_by_its_rule(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    circular = write_tsv(tmp_path / "MMBench_DEV_EN.tsv", [*rotated_rows(1), *rotated_rows(2)])
    hidden = [choice_row(n) for n in range(3)]
    for row in hidden:
        del row["answer"]
    hidden_file = write_tsv(tmp_path / "MMBench_TEST_EN.tsv", hidden)
    with caplog.at_level(logging.INFO, logger="genrecal_mcore"):
        scores = evaluate(model_dir, tmp_path / "out", circular, hidden_file)
    assert scores["MMBench_DEV_EN"].all.num == 2
    assert len(lines(tmp_path / "out" / "MMBench_DEV_EN" / "predictions.jsonl")) == 8
    assert (scores["MMBench_TEST_EN"].reported.value, scores["MMBench_TEST_EN"].num_open) == (None, 3)
    table = tmp_path / "out" / "MMBench_TEST_EN" / f"{model_dir.name}_MMBench_TEST_EN.tsv"
    assert table.is_file()
    assert f"to be judged by the benchmark's own server: {table}" in caplog.text


def test_a_right_and_a_wrong_answer_are_told_apart(model_dir: Path, tmp_path: Path) -> None:
    """What the model says becomes the true answer of one row and not of the other."""
    row = choice_row(1, **dict.fromkeys("ABCD", ""), answer="?")
    path = write_tsv(tmp_path / "RealWorldQA.tsv", [row])
    evaluate(model_dir, tmp_path / "first", path)
    (said,) = lines(tmp_path / "first" / "RealWorldQA" / "predictions.jsonl")
    write_tsv(path, [row | {"answer": said["prediction"]}, row | {"index": 2}])
    scores = evaluate(model_dir, tmp_path / "second", path)["RealWorldQA"]
    assert (scores.all.num, scores.all.num_correct, scores.reported.value) == (2, 1, 0.5)


def test_a_broken_image_is_left_out_listed_and_counted(model_dir: Path, tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1), choice_row(2, **BROKEN), choice_row(3)])
    scores = evaluate(model_dir, tmp_path / "out", path, max_skipped_share=0.5)["MMStar"]
    assert (scores.all.num, scores.num_left_out) == (2, 1)
    (row,) = lines(tmp_path / "out" / "MMStar" / "left_out.jsonl")
    assert (row["index"], row["number"]) == ("2", 2)
    assert "image 1 of the row cannot be read" in row["reason"]


def test_too_many_broken_rows_end_it_before_anything_is_written(model_dir: Path, tmp_path: Path) -> None:
    good = write_tsv(tmp_path / "AI2D_TEST.tsv", [choice_row(1)])
    bad = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1), choice_row(2, **BROKEN)])
    with pytest.raises(
        ValueError, match=r"MMStar\.tsv: 1 of 2 rows are broken, .* row 2 \(index '2'\): image 1"
    ):
        evaluate(model_dir, tmp_path / "out", good, bad)
    assert not (tmp_path / "out").exists()


def test_answers_on_disk_are_not_asked_for_again(model_dir: Path, tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(n) for n in range(8)])
    evaluate(model_dir, tmp_path / "out", path)
    part = tmp_path / "out" / "MMStar" / "parts" / "rank_000.jsonl"
    first, *others = part.read_text().splitlines(keepends=True)
    assert others
    answers = json.loads(first)["answers"]
    marked = {index: {"text": "mine", "is_cut": False} for index in answers}
    part.write_text(json.dumps({"batch": 0, "answers": marked}) + "\n")
    evaluate(model_dir, tmp_path / "out", path)
    assert part.read_text().splitlines(keepends=True)[1:] == others
    said = {
        line["index"]: line["prediction"] for line in lines(tmp_path / "out" / "MMStar" / "predictions.jsonl")
    }
    assert {index for index, text in said.items() if text == "mine"} == set(answers)


def test_answers_of_another_plan_are_refused(model_dir: Path, tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(n) for n in range(8)])
    evaluate(model_dir, tmp_path / "out", path)
    part = tmp_path / "out" / "MMStar" / "parts" / "rank_000.jsonl"
    record = json.loads(part.read_text().splitlines()[0])
    for number in (1, 999):
        part.write_text(json.dumps(record | {"batch": number}) + "\n")
        with pytest.raises(ValueError, match=rf"batch {number} was \[.* and is \[.*begin anew"):
            evaluate(model_dir, tmp_path / "out", path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 5}, "max_new_tokens was 6 and is 5"),
        ({"batch_tokens": 800}, "batch_tokens was 700 and is 800"),
    ],
)
def test_other_settings_do_not_go_on(
    changes: dict[str, int], message: str, model_dir: Path, tmp_path: Path
) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1)])
    evaluate(model_dir, tmp_path / "out", path)
    with pytest.raises(ValueError, match=message):
        evaluate(model_dir, tmp_path / "out", path, **changes)
    evaluate(model_dir, tmp_path / "out", path, overwrite=True, **changes)


def test_another_model_or_file_does_not_go_on(model_dir: Path, tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1)])
    evaluate(model_dir, tmp_path / "out", path)
    other = make_tiny_model(tmp_path / "other", "qwen2_vl", seed=2)
    with pytest.raises(ValueError, match=r"model was '\w{64}' and is '\w{64}'"):
        evaluate(other, tmp_path / "out", path)
    write_tsv(path, [choice_row(2)])
    with pytest.raises(ValueError, match=r"file was .* questions was"):
        evaluate(model_dir, tmp_path / "out", path)


def test_threads_that_decode_ahead_change_nothing(model_dir: Path, tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(n) for n in range(8)])
    for num_workers in (0, 3):
        evaluate(model_dir, tmp_path / str(num_workers), path, num_workers=num_workers)
    alone, ahead = (tmp_path / str(n) / "MMStar" / "predictions.jsonl" for n in (0, 3))
    assert alone.read_bytes() == ahead.read_bytes()


def test_two_files_of_one_name_are_refused(model_dir: Path, tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1)])
    with pytest.raises(ValueError, match="two files are called 'MMStar'; give one a name"):
        evaluate(model_dir, tmp_path / "out", path, f"MMStar={path}")


def test_a_folder_without_a_tensor_is_refused(tmp_path: Path) -> None:
    model_dir = make_tiny_model(tmp_path / "model", "qwen2_vl", seed=1)
    weights = load_file(model_dir / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1)])
    with pytest.raises(
        ValueError, match=r"lacks 1 tensors of Qwen2VLForConditionalGeneration, e\.g\. .*norm"
    ):
        evaluate(model_dir, tmp_path / "out", path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 0}, "--batch-tokens must be at least 1, found 0"),
        ({"num_workers": -1}, "--num-workers must be at least 0, found -1"),
        ({"max_skipped_share": 1.5}, "--max-skipped-share must be in 0 to 1, found 1.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)
