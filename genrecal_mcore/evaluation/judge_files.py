"""Predictions in the formats of those who judge them: VLMEvalKit's table, MM-Vet's own file."""

import csv
from collections.abc import Mapping
from pathlib import Path

from genrecal_mcore.evaluation.files import Reading
from genrecal_mcore.evaluation.question import Answer
from genrecal_mcore.evaluation.results import write_json

MM_VET_IDS = ("v1_", "v2_")


def write_judge_files(
    folder: Path, reading: Reading, answers: Mapping[str, Answer], *, model: str, benchmark: str
) -> list[Path]:
    """Write what judges of this benchmark read, and return the paths; none for other formats than theirs.

    A TSV file gives `MODEL_BENCHMARK.tsv` for `vlmutil eval`: its columns but the images, and `prediction`
    (`EVAL` in `vlmeval/tools.py` of VLMEvalKit). Questions of MM-Vet give `MODEL.json`, answers by id
    (`mm-vet_evaluator.py` of yuweihao/MM-Vet).
    """
    written = []
    if reading.columns:
        written.append(folder / f"{model}_{benchmark}.tsv")
        _write_table(written[-1], reading, answers)
    if reading.questions and all(question.index.startswith(MM_VET_IDS) for question in reading.questions):
        written.append(folder / f"{model}.json")
        write_json(written[-1], {index: answer.text for index, answer in answers.items()})
    return written


def _write_table(path: Path, reading: Reading, answers: Mapping[str, Answer]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, dialect=csv.excel_tab, quoting=csv.QUOTE_ALL)
        table.writerow([*reading.columns, "prediction"])
        for question in reading.questions:
            values = [question.fields.get(column, "") for column in reading.columns]
            table.writerow([*values, answers[question.index].text])
