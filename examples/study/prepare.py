"""Write the small study's data: for each task TASK_train.jsonl and TASK_heldout.jsonl, and the images.

Example: python examples/study/prepare.py --out runs/study_small/data

Held-out questions are about easy-VQA's test images, which no training sample shows. For the question what a
domain is worth, the training samples of each lie in TASK_train_DOMAIN.jsonl too.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from tasks import TASKS, TURNS, labels_of_images, load_questions, source_dir, task_records


def prepare(out: Path, *, num_train: int, num_heldout: int, seed: int = 0) -> None:
    """Write every task's files and `out/images/{train,test}`."""
    for task in TASKS:
        train = task_records(task, "train", num_samples=num_train, seed=seed)
        _write_lines(out / f"{task}_train.jsonl", train)
        for domain in sorted({record["domain"] for record in train}):
            of_domain = (record for record in train if record["domain"] == domain)
            _write_lines(out / f"{task}_train_{domain}.jsonl", of_domain)
        heldout = task_records(task, "test", num_samples=num_heldout, seed=seed)
        _write_lines(out / f"{task}_heldout.jsonl", heldout)
    write_images(out / "images" / "train", "train", TURNS)
    write_images(out / "images" / "test", "test", [""])


def write_images(folder: Path, split: str, endings: Iterable[str]) -> None:
    """Write the labelled images of a split, once for each way to lie."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in labels_of_images(load_questions(split)):
        with Image.open(source_dir() / split / "images" / f"{number}.png") as image:
            picture = image.convert("RGB")
        for ending in endings:
            turn = TURNS[ending]
            turned = picture if turn is None else picture.transpose(turn)
            turned.save(folder / f"{number}{ending}.png")


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def main(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    num_train: Annotated[int, typer.Option(help="Training samples of each task.")] = 6000,
    num_heldout: Annotated[int, typer.Option(help="Held-out samples of each task.")] = 800,
    seed: Annotated[int, typer.Option(help="Draws the samples.")] = 0,
) -> None:
    """Write easy-VQA as the small study's three tasks."""
    prepare(out, num_train=num_train, num_heldout=num_heldout, seed=seed)


if __name__ == "__main__":
    typer.run(main)
