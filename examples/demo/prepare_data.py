"""Write easy-VQA in the LLaVA format: train.jsonl, heldout.jsonl and an images folder.

Example: python examples/demo/prepare_data.py --out runs/demo/data

easy-VQA (PyPI `easy-vqa`, MIT) holds 64 x 64 images of one coloured shape with questions. Training samples
mix its short answers with sentences made from the same labels; held-out samples are other images with short
answers only.
"""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SENTENCE_REQUEST = " answer in a sentence."
SENTENCE_SHARE = 0.4


def source_dir() -> Path:
    """Return the data folder inside the installed package."""
    import easy_vqa

    return Path(easy_vqa.__file__).parent / "data"


def labels_of_images(questions: list[list[Any]]) -> dict[int, tuple[str, str]]:
    """Return (color, shape) of each image whose questions and answers tell both."""
    colors: dict[int, str] = {}
    shapes: dict[int, str] = {}
    for question, answer, image in questions:
        if answer in COLORS:
            colors[image] = answer
            named = re.search(r"of the (\w+)\?|is the (\w+)\?", question)
            if named and (named[1] or named[2]) in SHAPES:
                shapes[image] = named[1] or named[2]
        elif answer in SHAPES:
            shapes[image] = answer
            named = re.search(r"is the (\w+) shape", question)
            if named:
                colors[image] = named[1]
    return {image: (colors[image], shapes[image]) for image in colors.keys() & shapes.keys()}


def load_questions(split: str) -> list[list[Any]]:
    """Return `[question, answer, image number]` of a split."""
    return json.loads((source_dir() / split / "questions.json").read_text(encoding="utf-8"))


def sentence(answer: str, color: str, shape: str) -> str:
    """Return the answer as a sentence about the image."""
    prefix = f"{answer}, " if answer in ("yes", "no") else ""
    return f"{prefix}it is a {color} {shape}."


def samples(split: str, *, num_samples: int, with_sentences: bool, seed: int) -> Iterator[dict[str, Any]]:
    """Yield LLaVA records drawn without repetition from a split."""
    questions = load_questions(split)
    labels = labels_of_images(questions)
    rng = random.Random(seed)
    known = [entry for entry in questions if entry[2] in labels]
    for number, (question, answer, image) in enumerate(rng.sample(known, min(num_samples, len(known)))):
        kind = "yes_no" if answer in ("yes", "no") else "other"
        if with_sentences and rng.random() < SENTENCE_SHARE:
            question, answer = question + SENTENCE_REQUEST, sentence(answer, *labels[image])
        yield {
            "id": f"{split}-{number}",
            "image": f"{split}/{image}.png",
            "domain": kind,
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": answer},
            ],
        }


def prepare(out: Path, *, num_train: int, num_heldout: int, seed: int = 0) -> None:
    """Write `out/train.jsonl`, `out/heldout.jsonl` and `out/images/{train,test}`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, split, count in (("train", "train", num_train), ("heldout", "test", num_heldout)):
        records = samples(split, num_samples=count, with_sentences=name == "train", seed=seed)
        lines = (json.dumps(record) + "\n" for record in records)
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        shutil.copytree(source_dir() / split / "images", out / "images" / split, dirs_exist_ok=True)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    num_train: Annotated[int, typer.Option(help="Training samples.")] = 4000,
    num_heldout: Annotated[int, typer.Option(help="Held-out samples.")] = 600,
    seed: Annotated[int, typer.Option(help="Draws the samples.")] = 0,
) -> None:
    """Write easy-VQA in the LLaVA format."""
    prepare(out, num_train=num_train, num_heldout=num_heldout, seed=seed)


if __name__ == "__main__":
    typer.run(main)
