from pathlib import Path

import pytest

from genrecal_mcore.data import BrokenSample, Turn, load_processor
from genrecal_mcore.evaluation.ahead import map_ahead
from genrecal_mcore.evaluation.files import BenchmarkFile, read_questions
from genrecal_mcore.evaluation.model_inputs import ModelInputs
from genrecal_mcore.evaluation.question import Question
from tests.helpers.tiny_benchmarks import choice_row, write_tsv
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.evaluation


@pytest.fixture(scope="module", params=["internvl_qwen2", "qwen2_vl"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelInputs:
    return ModelInputs(load_processor(make_tiny_model(tmp_path_factory.mktemp("m"), request.param, seed=1)))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Question, ...]:
    rows = [choice_row(n, question="why? " * n) for n in range(1, 13)]
    path = write_tsv(tmp_path_factory.mktemp("d") / "MMStar.tsv", rows)
    return read_questions(BenchmarkFile.parse(str(path))).questions


def test_lengths_are_those_of_the_batch_and_do_not_depend_on_threads(
    inputs: ModelInputs, questions: tuple[Question, ...]
) -> None:
    def measure(question: Question) -> int:
        return inputs.num_tokens(question, max_new_tokens=4)

    lengths = list(map_ahead(measure, questions, num_workers=0))
    assert list(map_ahead(measure, questions * 10, num_workers=4)) == lengths * 10
    batch = inputs.batch(questions)
    assert batch["attention_mask"].sum(-1).tolist() == lengths
    assert batch["input_ids"].shape == (12, max(lengths))


def test_a_prompt_that_leaves_no_room_for_the_answer_is_broken(inputs: ModelInputs) -> None:
    question = Question(index="1", number=1, turns=(Turn(question="a", answer=""),), images=(), answer="A")
    room = inputs.max_tokens - inputs.num_tokens(question, max_new_tokens=1)
    inputs.num_tokens(question, max_new_tokens=room)
    with pytest.raises(BrokenSample, match="are more than the model's 512 positions"):
        inputs.num_tokens(question, max_new_tokens=room + 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [("A" * 80, "image 1 of the row cannot be read"), ("A" * 81, "image 1 of the row is not base64")],
    ids=["no image", "no base64"],
)
def test_an_image_that_does_not_decode_is_broken(
    image: str, message: str, inputs: ModelInputs, tmp_path: Path
) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1, image=image)])
    (question,) = read_questions(BenchmarkFile.parse(str(path))).questions
    with pytest.raises(BrokenSample, match=message):
        inputs.num_tokens(question, max_new_tokens=1)
