from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from genrecal_mcore.config import DataSource
from genrecal_mcore.data import Sample, load_processor
from genrecal_mcore.data.llava import build_sample
from genrecal_mcore.data.sources import read_record, records_of
from genrecal_mcore.evaluation import generate_answers
from genrecal_mcore.evaluation.generate import answer_batch, stop_tokens
from genrecal_mcore.models import (
    Packing,
    load_student,
    student_body,
    student_embeddings,
    use_packed_attention,
)
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.evaluation

NUM_SAMPLES = 12


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    data_file = make_tiny_dataset(tmp_path_factory.mktemp("data"), NUM_SAMPLES, seed=3)
    source = DataSource(path=data_file, images=data_file.parent / "images")
    return [build_sample(read_record(record), record) for record in records_of(source)]


@pytest.fixture(scope="module", params=["internvl_qwen2", "internvl_llama", "qwen2_vl"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp(request.param), request.param, seed=1)


def test_answers_do_not_depend_on_the_batch(model_dir: Path, samples: list[Sample]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    processor = load_processor(model_dir)
    alone = [generate_answers(model, processor, [s], max_new_tokens=6)[0] for s in samples]
    assert generate_answers(model, processor, samples, max_new_tokens=6) == alone
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
        images = [Image.open(image.open()).convert("RGB") for image in sample.images]
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
        assert generate_answers(model, processor, [sample], max_new_tokens=1) == [expected]


def test_an_answer_is_cut_where_its_last_token_is_no_end(model_dir: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(model_dir).eval()
    processor = load_processor(model_dir)
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    (cut,) = answer_batch(model, processor, inputs, max_new_tokens=3)
    assert cut.is_cut
    first = int(model(**inputs).logits[0, -1].argmax())
    model.generation_config.eos_token_id = [first]
    (ended,) = answer_batch(model, processor, inputs, max_new_tokens=3)
    assert (ended.text, ended.is_cut) == ("", False)
