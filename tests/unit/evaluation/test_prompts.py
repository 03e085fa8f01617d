"""The sentences are those that VLMEvalKit's `build_prompt` makes; MMBench's README shows one whole."""

import pytest

from genrecal_mcore.data import BrokenSample
from genrecal_mcore.evaluation import prompts

pytestmark = pytest.mark.evaluation

FIELDS = {"hint": "A figure.", "question": "Which?", "A": "one", "B": "two", "category": "x"}


def test_choice_has_hint_question_options_and_request() -> None:
    assert prompts.choice_prompt(FIELDS) == (
        "Hint: A figure.\nQuestion: Which?\nOptions:\nA. one\nB. two\n"
        "Please select the correct answer from the options above. \n"
    )


def test_mmmu_pro_asks_for_a_letter_and_shows_no_hint() -> None:
    assert prompts.letter_prompt(FIELDS) == (
        "Question: Which?\nOptions:\nA. one\nB. two\n"
        "Answer directly with the option letter from the given choices. "
    )
    assert prompts.in_image_prompt(FIELDS) == (
        "Answer the following multiple-choice question in the image. "
        "Answer directly with the option letter from the given choices. "
    )


def test_a_question_without_options_is_not_asked_to_choose() -> None:
    assert prompts.choice_prompt({"question": "How many?"}) == "Question: How many?\n"


def test_chartqa_asks_for_a_word_and_mathvista_as_its_file_does() -> None:
    assert prompts.short_answer_prompt(FIELDS) == (
        "Which?\nAnswer the question using a single word or phrase."
    )
    assert prompts.plain_prompt(FIELDS) == "Which?"


def test_numbered_images_stand_where_they_are_named_and_others_are_not_shown() -> None:
    assert prompts.place_numbered_images("<image 2> or <image 1>, <image 2>?", 3) == (
        "<image> or <image>, <image>?",
        (1, 0, 1),
    )
    assert prompts.place_numbered_images("which?", 2) == ("<image>\n<image>\nwhich?", (0, 1))


@pytest.mark.parametrize("text", ["<image 0>", "<image 3>"])
def test_a_number_without_an_image_is_broken(text: str) -> None:
    with pytest.raises(BrokenSample, match="names image . but there are 2 images|names image"):
        prompts.place_numbered_images(text, 2)
