import logging
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from genrecal_mcore.evaluation.files import Reading
from genrecal_mcore.evaluation.files.tsv_questions import read_tsv_questions
from genrecal_mcore.evaluation.images import open_images
from tests.helpers.tiny_benchmarks import base64_png, choice_row, rotated_rows, write_tsv

pytestmark = pytest.mark.evaluation


def read(tmp_path: Path, rows: Sequence[dict[str, object]], name: str = "MMStar") -> Reading:
    return read_tsv_questions(name, write_tsv(tmp_path / f"{name}.tsv", rows), images_dir=tmp_path / "images")


def test_a_row_is_a_question_with_options_groups_and_image(tmp_path: Path) -> None:
    row = choice_row(6, hint="Look.", l2_category="colors")
    (question,) = read(tmp_path, [row]).questions
    assert question.index == "6"
    assert question.answer == "C"
    assert question.options == {"A": "red", "B": "green", "C": "blue", "D": "yellow"}
    assert question.groups == (("l2_category", "colors"), ("category", "even"))
    assert question.turns[0].question == (
        "<image>\nHint: Look.\nQuestion: What color is shape 6?\n"
        "Options:\nA. red\nB. green\nC. blue\nD. yellow\n"
        "Please select the correct answer from the options above. \n"
    )
    (image,) = open_images(question.images)
    assert (image.size, image.getpixel((0, 0))) == ((48, 24), (0, 0, 255))


def test_a_short_image_is_the_index_of_the_row_that_has_it(tmp_path: Path) -> None:
    rows = [choice_row(1, image=2), choice_row(2)]
    first, second = read(tmp_path, rows).questions
    assert first.images == second.images
    assert open_images(first.images)[0].getpixel((0, 0)) == (0, 0, 255)


def test_a_list_of_images_is_several(tmp_path: Path) -> None:
    images = str([base64_png("red"), base64_png("blue")])
    (question,) = read(tmp_path, [choice_row(1, image=images)]).questions
    assert [image.getpixel((0, 0)) for image in open_images(question.images)] == [(255, 0, 0), (0, 0, 255)]
    assert question.turns[0].question.startswith("<image>\n<image>\nQuestion: ")


def test_image_paths_are_in_the_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (7, 5), "red").save(tmp_path / "images" / "a.png")
    row = choice_row(1, image_path="['a.png', 'a.png']")
    del row["image"]
    (question,) = read(tmp_path, [row]).questions
    assert [image.size for image in open_images(question.images)] == [(7, 5), (7, 5)]


def test_mmmu_places_images_where_the_text_names_them(tmp_path: Path) -> None:
    images = str([base64_png("red"), base64_png("green"), base64_png("blue")])
    row = choice_row(1, image=images, question="Is <image 3> like <image 1>?", A="yes", B="no, <image 3>")
    (question,) = read(tmp_path, [row], name="MMMU_DEV_VAL").questions
    assert (
        "Question: Is <image> like <image>?\nOptions:\nA. yes\nB. no, <image>\n" in question.turns[0].question
    )
    assert [image.position for image in question.images] == [2, 0, 2]


def test_a_number_in_the_text_of_another_benchmark_is_only_text(tmp_path: Path) -> None:
    (question,) = read(tmp_path, [choice_row(1, question="Is <image 1> red?")]).questions
    assert question.turns[0].question.startswith("<image>\nQuestion: Is <image 1> red?\n")


def test_none_is_an_option_and_an_empty_field_is_not(tmp_path: Path) -> None:
    """Pandas reads both as missing: https://github.com/open-compass/VLMEvalKit/issues/677."""
    row = choice_row(3, D="None", A="nan", C="")
    assert read(tmp_path, [row]).questions[0].options == {"B": "green", "D": "None"}


def test_a_row_without_options_is_an_open_question(tmp_path: Path) -> None:
    row = choice_row(3, answer="12", **dict.fromkeys("ABCD", ""))
    (question,) = read(tmp_path, [row, choice_row(4)], name="RealWorldQA").questions[:1]
    assert question.options == {}
    assert question.turns[0].question == "<image>\nQuestion: What color is shape 3?\n"


@pytest.mark.parametrize(
    ("columns", "name", "reason"),
    [
        ({"answer": "E"}, "MMStar", "the answer 'E' is not one of the options A, B, C, D"),
        ({"answer": ""}, "MMStar", "the answer is empty"),
        ({"question": ""}, "MMStar", "the question is empty"),
        ({"index": ""}, "MMStar", "the index is empty"),
        ({"index": 1}, "MMStar", "the index 1 stands in row 1 already"),
        ({"image": ""}, "MMStar", "it has no image"),
        ({"image": 77}, "MMStar", "its image is that of index '77', which has none"),
        ({"question": "<image> <image>"}, "MMStar", "2 <image> placeholders for 1 images"),
        ({"question": "see <image 2>"}, "MMMU_DEV_VAL", "the text names image 2, but there are 1 images"),
        (dict.fromkeys("ABCD", ""), "MMMU_Pro_10c", "the columns A, B, ... hold no options"),
        ({"question_type": "essay"}, "MathVista_MINI", "question_type 'essay' with answer_type 'integer'"),
        ({"answer": "3.5x"}, "MathVista_MINI", "the answer '3.5x' is not of the answer_type integer"),
        (
            {"question_type": "multi_choice", "choices": "['5', '6']"},
            "MathVista_MINI",
            "the answer '7' is not one of the choices",
        ),
    ],
)
def test_a_broken_row_is_left_out_with_its_reason(
    columns: dict[str, object], name: str, reason: str, tmp_path: Path
) -> None:
    whole = [choice_row(1), choice_row(2)]
    if name == "MathVista_MINI":
        forms = {"answer": "7", "question_type": "free_form", "answer_type": "integer"}
        whole = [row | forms for row in whole]
    reading = read(tmp_path, [whole[0], whole[1] | columns], name=name)
    assert [question.index for question in reading.questions] == ["1"]
    assert [(row.number, row.reason[: len(reason)]) for row in reading.left_out] == [(2, reason)]


def test_a_row_of_another_width_is_left_out(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1)])
    path.write_text(path.read_text() + "2\tbroken\n")
    reading = read_tsv_questions("MMStar", path, images_dir=tmp_path)
    assert [row.reason for row in reading.left_out] == ["2 fields for 9 columns"]


@pytest.mark.parametrize("with_g_index", [True, False], ids=["g_index", "offset"])
def test_a_broken_rotation_takes_the_others_with_it(with_g_index: bool, tmp_path: Path) -> None:
    rows = [*rotated_rows(1), *rotated_rows(2)]
    rows[1]["answer"] = ""
    if not with_g_index:
        for row in rows:
            del row["g_index"]
    reading = read(tmp_path, rows, name="MMBench_DEV_EN")
    assert [(question.index, question.rotation_of) for question in reading.questions] == [
        ("2", "2"),
        ("1000002", "2"),
        ("2000002", "2"),
        ("3000002", "2"),
    ]
    assert [row.number for row in reading.left_out] == [1, 2, 3, 4]
    assert "of the rotations of question 1, that of index '1000001' is broken" in reading.left_out[0].reason


def test_a_rotation_without_its_question_is_left_out(tmp_path: Path) -> None:
    rows = rotated_rows(1)
    rows[1]["image"] = rows[0]["image"]
    reading = read(tmp_path, rows[1:2], name="MMBench_DEV_EN")
    assert reading.left_out[0].reason == "the unrotated question 1 is not there"


def test_a_benchmark_that_hides_its_answers_needs_none(tmp_path: Path) -> None:
    row = choice_row(1)
    del row["answer"]
    assert read(tmp_path, [row], name="MMBench_TEST_EN_V11").questions[0].answer is None


def test_an_unknown_name_is_judged_by_its_columns_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        choices = read(tmp_path, [choice_row(1)], name="colors")
        opened = read(tmp_path, [{"index": 1, "image": base64_png(), "question": "?", "answer": "x"}], "open")
    assert (choices.benchmark.name, opened.benchmark.name) == ("multiple choice", "short answers")
    assert "colors is no benchmark known by name: its columns hold options" in caplog.text
    assert opened.questions[0].turns[0].question == (
        "<image>\n?\nAnswer the question using a single word or phrase."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header"),
        ("index\tquestion\n", r"lacks the columns answer, image \(or image_path\), which MMStar needs"),
        ("index\timage\timage\n", "has the column 'image' twice"),
        ("a,b,c\n", "lacks the columns index, question, answer.*it has a,b,c.*separated by tabs"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "MMStar.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_tsv_questions("MMStar", path, images_dir=tmp_path)


def test_a_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    large = "A" * 2_000_000
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(n, image=large) for n in range(20)])
    tracemalloc.start()
    reading = read_tsv_questions("MMStar", path, images_dir=tmp_path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reading.questions) == 20
    assert peak_bytes < 20e6 < path.stat().st_size / 2  # worst seen 14e6: a row is held a few times at once
