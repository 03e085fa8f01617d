"""Reads TSV files row by row, and single rows again by their place: the file is never whole in memory.

Benchmarks as VLMEvalKit distributes them hold their images in base64 and reach several GB.
"""

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from genrecal_mcore.evaluation.question import RowPlace

MAX_FIELD_LENGTH = 2**29
"""A quote that is never closed is found here, before it has eaten the file."""


def read_tsv(path: Path) -> Iterator[tuple[RowPlace, list[str]]]:
    """Yield place and values of each row that is not blank, the header first.

    Raises `ValueError` naming file and line when the file is missing, not UTF-8 or wrongly quoted.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a .tsv file")
    csv.field_size_limit(MAX_FIELD_LENGTH)  # of the whole process: the module has no other
    with path.open("rb") as file:
        lines = _CountedLines(file)
        while True:
            offset, number = lines.num_bytes, lines.num_lines + 1
            try:
                values = _next_row(lines)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path}: the row that begins in line {number} is not tab-separated UTF-8 ({error}); "
                    "repair or download the file again"
                ) from None
            if any(values):
                yield RowPlace(offset=offset, num_bytes=lines.num_bytes - offset), values


def read_row(path: Path, place: RowPlace) -> list[str]:
    """Return the values of the row at a place that `read_tsv` gave."""
    with path.open("rb") as file:
        file.seek(place.offset)
        return _next_row(iter([file.read(place.num_bytes).decode("utf-8")]))


def _next_row(lines: Iterator[str]) -> list[str]:
    """Take the lines of one row and return its values.

    Most rows have no quote and need not go through the csv module, which looks at every letter of an image.
    """
    line = next(lines)
    if '"' not in line:
        return line.rstrip("\r\n").split("\t")
    return next(csv.reader(chain([line], lines), dialect=csv.excel_tab, strict=True))


class _CountedLines:
    """Lines of a binary file as text, and the bytes and lines given out so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.num_bytes = self.num_lines = 0

    def __iter__(self) -> "_CountedLines":
        return self

    def __next__(self) -> str:
        line = next(self.file)
        is_first = self.num_lines == 0
        self.num_lines += 1
        self.num_bytes += len(line)
        return line.decode("utf-8-sig" if is_first else "utf-8")
