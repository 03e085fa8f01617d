import json
from pathlib import Path

import pytest

from genrecal_mcore.evaluation.benchmarks import benchmark_named
from genrecal_mcore.evaluation.files.mm_vet import read_mm_vet
from genrecal_mcore.evaluation.files.reading import Reading

pytestmark = pytest.mark.evaluation


def read(path: Path, content: object) -> Reading:
    path.write_text(json.dumps(content))
    benchmark = benchmark_named(path.stem)
    assert benchmark is not None
    return read_mm_vet(benchmark, path, images_dir=Path("images"))


def test_a_question_of_the_first_version_has_one_image_before_it(tmp_path: Path) -> None:
    record = {
        "imagename": "v1_0.png",
        "question": "What is x?",
        "answer": "-1",
        "capability": ["ocr", "math"],
    }
    (question,) = read(tmp_path / "mm-vet.json", {"v1_0": record}).questions
    assert question.turns[0].question == "<image>\nWhat is x?"
    assert [image.path for image in question.images] == [Path("images/v1_0.png")]
    assert question.groups == (("capability", "ocr"), ("capability", "math"))


def test_parts_of_the_second_version_that_are_files_are_images(tmp_path: Path) -> None:
    text = "Here:<IMG>a.jpg<IMG>then<IMG>b.png<IMG>What comes next?"
    (question,) = read(tmp_path / "mm-vet-v2.json", {"v2_3": {"question": text, "answer": "c"}}).questions
    assert question.turns[0].question == "Here:\n<image>\nthen\n<image>\nWhat comes next?"
    assert [image.path.name for image in question.images] == ["a.jpg", "b.png"]


def test_a_record_without_an_answer_is_left_out_and_another_file_refused(tmp_path: Path) -> None:
    reading = read(tmp_path / "mm-vet.json", {"v1_0": {"question": "What?"}})
    assert [row.index for row in reading.left_out] == ["v1_0"]
    with pytest.raises(ValueError, match="must hold an object of questions by id, found list"):
        read(tmp_path / "mm-vet.json", [])
