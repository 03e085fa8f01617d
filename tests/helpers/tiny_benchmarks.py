"""Writes small benchmark files as VLMEvalKit distributes them, with real PNG images in base64."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

COLORS = ("red", "green", "blue", "yellow")
IMAGE_SIZES = ((48, 24), (30, 50), (24, 24), (64, 40))


def base64_png(color: str = "red", size: tuple[int, int] = (24, 24)) -> str:
    """Return an image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_tsv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows as pandas does; a column that a row lacks is empty. Return the path."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, restval="", dialect=csv.excel_tab)
        table.writeheader()
        table.writerows(rows)
    return path


def choice_row(index: int, **columns: object) -> dict[str, object]:
    """Return a row of a multiple-choice benchmark: which colour an image has."""
    color = COLORS[index % len(COLORS)]
    row = {
        "index": index,
        "image": base64_png(color, IMAGE_SIZES[index % 3]),
        "question": f"What color is shape {index}?",
        **dict(zip("ABCD", COLORS, strict=True)),
        "answer": "ABCD"[index % len(COLORS)],
        "category": "even" if index % 2 == 0 else "odd",
    }
    return row | columns


def rotated_rows(index: int) -> list[dict[str, object]]:
    """Return a question and the three rotations of its options, which refer to its image."""
    first = choice_row(index, g_index=index)
    letters = "ABCD"
    rows = [first]
    for turn in range(1, len(letters)):
        turned = letters[turn:] + letters[:turn]
        moved = {new: first[old] for old, new in zip(letters, turned, strict=True)}
        answer = turned[letters.index(str(first["answer"]))]
        rows.append(first | moved | {"index": index + turn * 10**6, "image": index, "answer": answer})
    return rows
