"""Make what the small study's runs need: data, converted teachers, and caches of their features.

Example: python examples/study/prepare.py --out runs/study_small

Each task has data/TASK_train.jsonl and data/TASK_heldout.jsonl; held-out questions are about easy-VQA's test
images, which no training sample shows.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from tasks import TASKS, TURNS, labels_of_images, load_questions, source_dir, task_records

STUDY = Path(__file__).parent
ROOT = STUDY.parents[1]
TEACHER_TASKS = {"teacher": TASKS, "small_teacher": ("names",)}
"""The tasks that each teacher teaches."""


def prepare(out: Path, *, num_train: int, num_heldout: int) -> None:
    """Write everything; what is there already is kept, but for the data, which is the same each time."""
    write_data(out / "data", num_train=num_train, num_heldout=num_heldout)
    for teacher, tasks in TEACHER_TASKS.items():
        if not (out / teacher).exists():
            convert(STUDY / f"{teacher}_hf", out / teacher)
        for task in tasks:
            write_cache(out, teacher, task)
    (out / "prepared").touch()


def write_data(folder: Path, *, num_train: int, num_heldout: int, seed: int = 0) -> None:
    """Write every task's files and `images/{train,test}`."""
    for task in TASKS:
        train = task_records(task, "train", num_samples=num_train, seed=seed)
        _write_lines(folder / f"{task}_train.jsonl", train)
        heldout = task_records(task, "test", num_samples=num_heldout, seed=seed)
        _write_lines(folder / f"{task}_heldout.jsonl", heldout)
    write_images(folder / "images" / "train", "train", TURNS)
    write_images(folder / "images" / "test", "test", [""])


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


def convert(source: Path, folder: Path) -> None:
    """Convert a teacher for Megatron-core."""
    script = str(ROOT / "checkpoint_tools" / "hf2mcore.py")
    subprocess.run([sys.executable, script, "--hf-path", str(source), "--out", str(folder)], check=True)


def write_cache(out: Path, teacher: str, task: str) -> None:
    """Write every row of a teacher's features of a task's training samples, or what is missing of them."""
    data = out / "data"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "genrecal_mcore.cli.main", "cache", str(ROOT / "examples/configs/study/stage1.yaml")]
    options = ["--out", str(out / "caches" / teacher / task)]
    overrides = [
        "teacher.cache_rows=all",
        f"teacher.checkpoint={out / teacher}",
        f"data.sources=[{{path: {data / f'{task}_train.jsonl'}, images: {data / 'images'}}}]",
    ]
    subprocess.run([*launcher, *command, *options, *overrides], check=True)


def main(
    out: Annotated[Path, typer.Option(help="The study's folder.")],
    num_train: Annotated[int, typer.Option(help="Training samples of each task.")] = 2400,
    num_heldout: Annotated[int, typer.Option(help="Held-out samples of each task.")] = 800,
) -> None:
    """Make the small study's data, teachers and feature caches."""
    prepare(out, num_train=num_train, num_heldout=num_heldout)


if __name__ == "__main__":
    typer.run(main)
