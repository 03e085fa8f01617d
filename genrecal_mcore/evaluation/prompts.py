"""The text of a question as its benchmark asks it; pure.

The sentences are those of the benchmarks' own evaluation, for a score depends on them. Source of each:
`build_prompt` in the file of VLMEvalKit's `vlmeval/dataset/` that stands beside it. What VLMEvalKit lets some
models ask instead (`use_custom_prompt`) is not used.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase

from genrecal_mcore.data import BrokenSample
from genrecal_mcore.data.types import IMAGE_PLACEHOLDER

CHOOSE = "Please select the correct answer from the options above. \n"
"""`image_mcq.py`, `ImageMCQDataset`."""
CHOOSE_LETTER = "Answer directly with the option letter from the given choices. "
"""`image_mcq.py`, `MMMUProDataset`."""
CHOOSE_IN_IMAGE = f"Answer the following multiple-choice question in the image. {CHOOSE_LETTER}"
"""`image_mcq.py`, `MMMUProDataset`: the question itself stands in the image."""
ANSWER_SHORTLY = "\nAnswer the question using a single word or phrase."
"""`image_vqa.py`, `ImageVQADataset`."""

_NUMBERED_IMAGE = re.compile(r"<image (\d+)>")


def options_of(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each option of a row, by its letter: the columns A, B, C, ... that hold one."""
    return {letter: fields[letter] for letter in ascii_uppercase if letter in fields}


def choice_prompt(fields: Mapping[str, str]) -> str:
    """Return hint, question and options, and the request to choose; without options no request."""
    hint = f"Hint: {fields['hint']}\n" if "hint" in fields else ""
    return hint + _question_with_options(fields, request=CHOOSE)


def letter_prompt(fields: Mapping[str, str]) -> str:
    """Return question and options, and the request for a letter (MMMU-Pro, standard)."""
    return _question_with_options(fields, request=CHOOSE_LETTER)


def in_image_prompt(fields: Mapping[str, str]) -> str:
    """Return the request alone (MMMU-Pro, vision)."""
    del fields
    return CHOOSE_IN_IMAGE


def short_answer_prompt(fields: Mapping[str, str]) -> str:
    """Return the question and the request for a word or phrase (ChartQA)."""
    return fields["question"] + ANSWER_SHORTLY


def plain_prompt(fields: Mapping[str, str]) -> str:
    """Return the question as it stands (MathVista, MM-Vet: `image_base.py`, `ImageBaseDataset`)."""
    return fields["question"]


def _question_with_options(fields: Mapping[str, str], *, request: str) -> str:
    options = options_of(fields)
    text = f"Question: {fields['question']}\n"
    if not options:
        return text
    return text + "Options:\n" + "".join(f"{a}. {option}\n" for a, option in options.items()) + request


def place_numbered_images(text: str, num_images: int) -> tuple[str, tuple[int, ...]]:
    """Put a placeholder where the text says `<image 2>`; return it with the images named, in order, from 0.

    An image may be named twice or not at all; where none is, all stand first. Source: `split_MMMU` in
    `image_mcq.py`. Raises `BrokenSample` when the text names an image that is not there.
    """
    order = tuple(int(number) - 1 for number in _NUMBERED_IMAGE.findall(text))
    if not order:
        return place_images(text, num_images)
    wrong = [number + 1 for number in order if not 0 <= number < num_images]
    if wrong:
        raise BrokenSample(f"the text names image {wrong[0]}, but there are {num_images} images")
    return _NUMBERED_IMAGE.sub(IMAGE_PLACEHOLDER, text), order


def place_images(text: str, num_images: int) -> tuple[str, tuple[int, ...]]:
    """Put all images before the text, unless it has a placeholder for each; return it with their order."""
    order = tuple(range(num_images))
    num_placed = text.count(IMAGE_PLACEHOLDER)
    if num_placed == 0:
        return f"{IMAGE_PLACEHOLDER}\n" * num_images + text, order
    if num_placed != num_images:
        raise BrokenSample(f"{num_placed} {IMAGE_PLACEHOLDER} placeholders for {num_images} images")
    return text, order
