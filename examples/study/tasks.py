"""The small study's three tasks, as records in the LLaVA format made from easy-VQA's questions and labels.

`short`: easy-VQA's own questions with answers of one word, seven in ten yes or no. `sentences`: the same
questions answered in a sentence about the image. `names`: what is shown, one of 24 colors and shapes,
each about as frequent as the others, so that nothing but the image says which.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from prepare_data import SENTENCE_REQUEST, labels_of_images, load_questions, sentence, source_dir

Task = Literal["short", "sentences", "names"]
TASKS: tuple[Task, ...] = get_args(Task)
__all__ = ["TASKS", "TURNS", "Task", "labels_of_images", "load_questions", "source_dir", "task_records"]

NAME_QUESTIONS = ("what is shown?", "what does the image contain?", "which color and shape is it?")
TURNS = {
    "": None,
    "_mirrored": Image.Transpose.FLIP_LEFT_RIGHT,
    "_flipped": Image.Transpose.FLIP_TOP_BOTTOM,
    "_transposed": Image.Transpose.TRANSPOSE,
}
"""How an image may lie, by the ending of its file's name: its color and shape stay what they are."""


def task_records(task: Task, split: str, *, num_samples: int, seed: int) -> list[dict[str, Any]]:
    """Return LLaVA records drawn from a split without repetition; training images may lie in any way."""
    endings = tuple(TURNS) if split == "train" else ("",)
    drawn = random.Random(f"{task} {split} {seed}")
    asked = [(*entry, ending) for entry in _asked(task, split) for ending in endings]
    return [
        _record(f"{task}-{split}-{number}", f"{split}/{image}{ending}.png", question, answer)
        for number, (question, answer, image, ending) in enumerate(
            drawn.sample(asked, min(num_samples, len(asked)))
        )
    ]


def _asked(task: Task, split: str) -> Sequence[tuple[str, str, int]]:
    """Return every question of a task, its answer and its image."""
    questions = load_questions(split)
    labels = labels_of_images(questions)
    if task == "names":
        names = sorted((image, " ".join(label)) for image, label in labels.items())
        return [(question, name, image) for image, name in names for question in NAME_QUESTIONS]
    known = [(question, answer, image) for question, answer, image in questions if image in labels]
    if task == "short":
        return known
    return [
        (question + SENTENCE_REQUEST, sentence(answer, *labels[image]), image)
        for question, answer, image in known
    ]


def _record(name: str, image: str, question: str, answer: str) -> dict[str, Any]:
    return {
        "id": name,
        "image": image,
        "domain": _domain(question, answer),
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": answer},
        ],
    }


def _domain(question: str, answer: str) -> str:
    """Return what a question is about: what is left out at a time when domains are compared."""
    if answer.split(",")[0] in ("yes", "no"):
        return "yes_no"
    if question in NAME_QUESTIONS:
        return "name"
    return "color" if "color" in question else "shape"
