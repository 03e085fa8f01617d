"""The folder of one benchmark's results: written while it goes on, so that an interruption costs one batch.

settings.json      what was asked, of which model, how: an evaluation goes on only under the same
parts/             a file a rank, a line a finished batch
predictions.jsonl  scores.json  left_out.jsonl   at the end; VLMEvalKit's table and MM-Vet's file beside
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from shutil import rmtree
from typing import Any

from genrecal_mcore.evaluation.question import Answer

SETTINGS_NAME = "settings.json"
PREDICTIONS_NAME = "predictions.jsonl"
SCORES_NAME = "scores.json"
LEFT_OUT_NAME = "left_out.jsonl"
PARTS_NAME = "parts"


def begin_or_go_on(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the folder, or check that what it holds was begun under the same settings.

    Raises `ValueError` naming each setting that differs, and for a folder that holds something else.
    """
    path = folder / SETTINGS_NAME
    if folder.exists() and any(folder.iterdir()) and not path.is_file():
        raise ValueError(f"{folder} holds no {SETTINGS_NAME}, so it is no evaluation; choose another --out")
    if overwrite:
        rmtree(folder, ignore_errors=True)
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        names = sorted({*found, *settings})
        changes = [
            f"{name} was {found.get(name)!r} and is {settings.get(name)!r}"
            for name in names
            if found.get(name) != settings.get(name)
        ]
        if changes:
            raise ValueError(
                f"{folder} was begun under other settings: {'; '.join(changes)}. Choose another --out, or "
                "begin anew with --overwrite"
            )
    (folder / PARTS_NAME).mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


class PartWriter:
    """Appends one rank's finished batches to its own file."""

    def __init__(self, folder: Path, *, rank: int) -> None:
        self._file = (folder / PARTS_NAME / f"rank_{rank:03d}.jsonl").open("a", encoding="utf-8")

    def append(self, batch: int, indices: Sequence[str], answers: Sequence[Answer]) -> None:
        """Write a batch's answers at once: what is in the file is whole but for its last line."""
        said = {index: asdict(answer) for index, answer in zip(indices, answers, strict=True)}
        self._file.write(json.dumps({"batch": batch, "answers": said}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file: on a shared disk others see all of it then."""
        self._file.close()


def read_parts(folder: Path) -> dict[int, dict[str, Answer]]:
    """Return the answers of each finished batch by index, whichever rank wrote them.

    A line that an interruption left unfinished is removed from its file.
    """
    answers = {}
    for path in sorted((folder / PARTS_NAME).glob("rank_*.jsonl")):
        *lines, unfinished = path.read_bytes().split(b"\n")
        if unfinished:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - len(unfinished))
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                said = {index: Answer(**answer) for index, answer in record["answers"].items()}
                answers[int(record["batch"])] = said
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{path}, line {number} is not as it was written ({error!r}); begin anew with --overwrite"
                ) from None
    return answers


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    _write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a line of JSON for each record, all of them or none."""
    _write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".partial_{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
