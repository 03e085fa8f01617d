import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from genrecal_mcore.config import DataSource
from genrecal_mcore.data import Sample, load_processor
from genrecal_mcore.data.llava import build_sample, read_source
from genrecal_mcore.evaluation import (
    EvaluationSettings,
    KindScore,
    Scores,
    evaluate_model,
    evaluation_table,
    generate_answers,
    questions_of,
)
from genrecal_mcore.evaluation.generate import stop_tokens
from genrecal_mcore.models import (
    Packing,
    load_student,
    student_body,
    student_embeddings,
    use_packed_attention,
)
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model

NUM_SAMPLES = 12
SETTINGS = EvaluationSettings(batch_size=5, max_new_tokens=6, device="cpu")


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), NUM_SAMPLES, seed=3)


@pytest.fixture(scope="module")
def samples(data_file: Path) -> list[Sample]:
    source = DataSource(path=data_file, images=data_file.parent / "images")
    return [build_sample(record, source, number=number) for number, record in read_source(source)]


@pytest.fixture(scope="module", params=["internvl_qwen2", "internvl_llama", "qwen2_vl"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp(request.param), request.param, seed=1)


def evaluate(model_dir: Path, data_file: Path, out: Path, *, overwrite: bool = False) -> Scores:
    settings = replace(SETTINGS, overwrite=overwrite)
    return evaluate_model(
        model_dir, data_file=data_file, images_dir=data_file.parent / "images", out=out, settings=settings
    )


def test_answers_do_not_depend_on_the_batch(model_dir: Path, samples: list[Sample]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    processor = load_processor(model_dir)
    alone = [generate_answers(model, processor, [s], batch_size=1, max_new_tokens=6)[0] for s in samples]
    together = generate_answers(model, processor, samples, batch_size=5, max_new_tokens=6)
    assert together == alone
    assert len(set(alone)) > NUM_SAMPLES // 2


def test_the_first_token_is_the_one_that_training_would_predict(
    model_dir: Path, samples: list[Sample]
) -> None:
    """Prompt, image tokens and positions of generation are those of the training side."""
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    student = load_student(model_dir, dtype=torch.float32).eval()
    use_packed_attention(student.model.language_model.config)
    processor = load_processor(model_dir)
    for sample in samples:
        images = [Image.open(path).convert("RGB") for path in sample.images]
        rendered = processor.render(sample, [image.size for image in images])
        batch = processor.collate([rendered], processor.pixels(images))
        vision = (batch.vision.pixel_values, batch.vision.image_grid_thw) if batch.vision else (None, None)
        with torch.inference_mode():
            embeddings = student_embeddings(student, batch.input_ids, *vision)
            packing = Packing.of(batch.bounds, embeddings.device)
            hidden_states = student_body(student, embeddings, batch.position_ids, packing)
            logits = student.get_output_embeddings()(hidden_states)  # [s, v]
        predicted = int(logits[rendered.answer_spans[-1][0] - 1].argmax())
        expected = "" if predicted in stop_tokens(model, processor) else processor.decode([predicted]).strip()
        assert generate_answers(model, processor, [sample], batch_size=1, max_new_tokens=1) == [expected]


def test_each_turn_is_a_question_with_the_true_history_before_it(samples: list[Sample]) -> None:
    sample = next(s for s in samples if len(s.turns) == 2)
    first, second = questions_of(sample)
    assert first.turns == sample.turns[:1]
    assert second.turns == sample.turns
    assert first.images == sample.images


def test_images_of_later_turns_are_not_shown_early(samples: list[Sample]) -> None:
    sample = next(s for s in samples if len(s.turns) == 2 and len(s.images) == 2)
    first, second = sample.turns
    later = replace(
        sample,
        turns=(
            replace(first, question=first.question.replace("<image>\n", "", 1)),
            replace(second, question="<image>\nAnd this?"),
        ),
    )
    assert [len(question.images) for question in questions_of(later)] == [1, 2]


def test_scores_and_predictions_are_written_for_every_turn(
    model_dir: Path, data_file: Path, samples: list[Sample], tmp_path: Path
) -> None:
    scores = evaluate(model_dir, data_file, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert scores.num == written["num"] == len(lines) == sum(len(s.turns) for s in samples)
    assert [(line["id"], line["turn"]) for line in lines] == [
        (s.id, t) for s in samples for t in range(len(s.turns))
    ]
    assert scores.accuracy == sum(line["is_correct"] for line in lines) / len(lines)
    assert written["num_skipped_samples"] == 0


def test_an_existing_folder_is_kept_unless_overwriting_an_evaluation(data_file: Path, tmp_path: Path) -> None:
    model_dir = make_tiny_model(tmp_path / "model", "qwen2_vl", seed=1)
    kept = tmp_path / "out" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    for overwrite, message in ((False, "exists; choose another folder"), (True, "is no earlier evaluation")):
        with pytest.raises(ValueError, match=message):
            evaluate(model_dir, data_file, kept.parent, overwrite=overwrite)
    assert kept.read_text() == "mine"
    evaluate(model_dir, data_file, tmp_path / "other")
    evaluate(model_dir, data_file, tmp_path / "other", overwrite=True)


def test_a_folder_without_a_tensor_is_refused(data_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model_dir = make_tiny_model(tmp_path / "model", "qwen2_vl", seed=1)
    weights = load_file(model_dir / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 1 tensors of Qwen2VLForConditionalGeneration, e\.g\. .*norm"
    ):
        evaluate(model_dir, data_file, tmp_path / "out")


def test_table_shows_percent_and_a_dash_for_a_kind_that_was_not_asked() -> None:
    one = Scores(num=8, accuracy=0.625, by_kind={"yes_no": KindScore(num=8, num_correct=5)})
    two = Scores(
        num=3, accuracy=1.0, by_kind={k: KindScore(num=3, num_correct=3) for k in ("other", "chart")}
    )
    table = evaluation_table({"Teacher": one, "Student": two}, caption="Of 11 questions.")
    assert table.columns == ("Model", "all", "other", "yes_no", "chart")
    assert table.rows == (("Teacher", "62.5", "-", "62.5", "-"), ("Student", "100.0", "100.0", "-", "100.0"))
