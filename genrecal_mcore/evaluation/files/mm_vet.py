"""Questions of MM-Vet's own files, `mm-vet.json` and `mm-vet-v2.json`; their images lie in a folder beside.

Source: `load_metadata` in `mm-vet_evaluator.py`, `evaluate_on_mmvet` in `inference/utils.py` and
`get_response` in `v2/inference/gpt4.py` of yuweihao/MM-Vet.
"""

import json
from pathlib import Path
from typing import Any

from genrecal_mcore.data import BrokenSample, Turn
from genrecal_mcore.data.images import ImageFile
from genrecal_mcore.data.types import IMAGE_PLACEHOLDER
from genrecal_mcore.evaluation.benchmarks import Benchmark
from genrecal_mcore.evaluation.files.reading import Reading
from genrecal_mcore.evaluation.prompts import place_images
from genrecal_mcore.evaluation.question import LeftOut, Question

IMAGE_MARK = "<IMG>"
"""Stands between the parts of a question of v2; a part that is a file's name is an image."""
IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")


def read_mm_vet(benchmark: Benchmark, path: Path, *, images_dir: Path) -> Reading:
    """Read a file whose images are in `images_dir`; raises `ValueError` when it is not an object of JSON."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); expected MM-Vet's file") from None
    if not isinstance(records, dict):
        raise ValueError(f"{path} must hold an object of questions by id, found {type(records).__name__}")
    questions, left_out = [], []
    for number, (index, record) in enumerate(records.items(), 1):
        try:
            questions.append(_question(index, record, number=number, images_dir=images_dir))
        except BrokenSample as error:
            left_out.append(LeftOut(index=index, number=number, reason=str(error)))
    return Reading(benchmark=benchmark, questions=tuple(questions), left_out=tuple(left_out))


def _question(index: str, record: Any, *, number: int, images_dir: Path) -> Question:
    if not isinstance(record, dict) or not all(
        isinstance(record.get(k), str) for k in ("question", "answer")
    ):
        raise BrokenSample("expected an object with a question and an answer")
    parts = [part.strip() for part in record["question"].split(IMAGE_MARK)]
    names = [part for part in parts if part.endswith(IMAGE_SUFFIXES)]
    if "imagename" in record:
        text, _ = place_images(record["question"], 1)
        names = [record["imagename"]]
    else:
        text = "\n".join(IMAGE_PLACEHOLDER if part in names else part for part in parts)
    return Question(
        index=index,
        number=number,
        turns=(Turn(question=text, answer=""),),
        images=tuple(ImageFile(name=name, path=images_dir / name) for name in names),
        answer=record["answer"],
        groups=tuple(("capability", str(name)) for name in record.get("capability", [])),
    )
