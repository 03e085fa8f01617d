"""Questions of a TSV file as VLMEvalKit distributes them.

Columns: `docs/en/Development.md` and `ImageBaseDataset` in `vlmeval/dataset/image_base.py` of VLMEvalKit.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from genrecal_mcore.data import BrokenSample, Turn
from genrecal_mcore.data.images import ImageFile
from genrecal_mcore.evaluation.benchmarks import (
    CHOICE,
    OPEN,
    ROTATION_OFFSET,
    Benchmark,
    benchmark_named,
)
from genrecal_mcore.evaluation.field_lists import split_list
from genrecal_mcore.evaluation.files.reading import Reading
from genrecal_mcore.evaluation.files.tsv import read_tsv
from genrecal_mcore.evaluation.prompts import options_of, place_images, place_numbered_images
from genrecal_mcore.evaluation.question import ImageInRow, LeftOut, Question, RowPlace

logger = logging.getLogger(__name__)

MAX_REFERENCE_LENGTH = 64
"""A shorter text in the image column is the index of the row that has the image."""
EMPTY = ("", "nan")
"""What pandas writes for a missing value. "None" and "NA" are texts: they are options in MMMU."""
Images = tuple[ImageFile, ...] | tuple[ImageInRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    number: int
    fields: Mapping[str, str]
    place: RowPlace
    num_images: int
    """In the row itself."""
    reference: str | None
    """Index of the row that has the images instead."""


def read_tsv_questions(name: str, path: Path, *, images_dir: Path) -> Reading:
    """Read a file for the benchmark called `name`; an unknown name is logged, and the columns decide.

    Relative paths in a column `image_path` are in `images_dir`. Raises `ValueError` for a file that is not a
    table with the columns needed.
    """
    table = read_tsv(path)
    columns = _header(next(table, None), path)
    benchmark = benchmark_named(name) or _by_columns(name, columns)
    _check_columns(columns, benchmark, path)
    rows, broken = _read_rows(table, columns)
    questions = []
    for index, row in rows.items():
        rotation_of = _rotation_of(index, row.fields, benchmark)
        try:
            stored = _images(row, rows, path, images_dir)
            questions.append(replace(_question(row, stored, benchmark), rotation_of=rotation_of))
        except BrokenSample as error:
            broken.append(LeftOut(index=index, number=row.number, reason=str(error), rotation_of=rotation_of))
    text_columns = tuple(column for column in columns if column != "image")
    reading = Reading(benchmark=benchmark, questions=tuple(questions), left_out=(), columns=text_columns)
    return reading.without(broken)


def _read_rows(
    table: Iterator[tuple[RowPlace, list[str]]], columns: Sequence[str]
) -> tuple[dict[str, _Row], list[LeftOut]]:
    """Return the rows by index, and those that have none of their own."""
    rows: dict[str, _Row] = {}
    broken = []
    for number, (place, values) in enumerate(table, 1):
        try:
            index = _index(values, columns, rows)
            rows[index] = _row(number, place, columns, values)
        except BrokenSample as error:
            broken.append(LeftOut(index="", number=number, reason=str(error)))
    return rows, broken


def _header(first: tuple[RowPlace, list[str]] | None, path: Path) -> list[str]:
    if first is None:
        raise ValueError(f"{path} is empty; expected a header and rows, separated by tabs")
    columns = [column.strip() for column in first[1]]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ValueError(f"{path} has the column {twice[0]!r} twice; rename one")
    return columns


def _by_columns(name: str, columns: Sequence[str]) -> Benchmark:
    benchmark = CHOICE if {"A", "B"} <= set(columns) else OPEN
    logger.warning(
        "%s is no benchmark known by name: %s, so it is scored as %s",
        name,
        "its columns hold options" if benchmark is CHOICE else "no columns A, B hold options",
        benchmark.name,
    )
    return benchmark


def _check_columns(columns: Sequence[str], benchmark: Benchmark, path: Path) -> None:
    needed = ["index", *benchmark.needs, *(["answer"] if benchmark.has_answers else [])]
    missing = [column for column in needed if column not in columns]
    if "image" not in columns and "image_path" not in columns:
        missing.append("image (or image_path)")
    if missing:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}, which {benchmark.name} needs; it has "
            f"{', '.join(columns)[:500]}. Is it the benchmark's file, separated by tabs?"
        )


def _index(values: Sequence[str], columns: Sequence[str], rows: Mapping[str, _Row]) -> str:
    if len(values) != len(columns):
        raise BrokenSample(f"{len(values)} fields for {len(columns)} columns")
    index = values[columns.index("index")].strip()
    if not index:
        raise BrokenSample("the index is empty")
    if index in rows:
        raise BrokenSample(f"the index {index} stands in row {rows[index].number} already")
    return index


def _row(number: int, place: RowPlace, columns: Sequence[str], values: Sequence[str]) -> _Row:
    texts = dict(zip(columns, values, strict=True))
    image = texts.pop("image", "").strip()
    is_reference = 0 < len(image) <= MAX_REFERENCE_LENGTH and image not in EMPTY
    return _Row(
        number=number,
        fields={column: text for column, text in texts.items() if text.strip() not in EMPTY},
        place=replace(place, column=columns.index("image")) if "image" in columns else place,
        num_images=0 if is_reference or image in EMPTY else len(split_list(image)),
        reference=image if is_reference else None,
    )


def _rotation_of(index: str, fields: Mapping[str, str], benchmark: Benchmark) -> str | None:
    """Return the index of the unrotated question, where the file or the benchmark has rotations."""
    if "g_index" in fields:
        return fields["g_index"]
    return str(int(index) % ROTATION_OFFSET) if benchmark.has_rotations and index.isdecimal() else None


def _images(row: _Row, rows: Mapping[str, _Row], path: Path, images_dir: Path) -> Images:
    source = row
    if row.reference is not None:
        if row.reference not in rows or not rows[row.reference].num_images:
            raise BrokenSample(f"its image is that of index {row.reference!r}, which has none")
        source = rows[row.reference]
    if source.num_images:
        return tuple(
            ImageInRow(file=path, row=source.place, position=position)
            for position in range(source.num_images)
        )
    if "image_path" not in row.fields:
        raise BrokenSample("it has no image")
    return tuple(
        ImageFile(name=name, path=images_dir / name) for name in split_list(row.fields["image_path"])
    )


def _question(row: _Row, stored: Images, benchmark: Benchmark) -> Question:
    needed = [*benchmark.needs, *(["answer"] if benchmark.has_answers else [])]
    for column in needed:
        if column not in row.fields:
            raise BrokenSample(f"the {column} is empty")
    place = place_numbered_images if benchmark.places_images else place_images
    text, order = place(benchmark.prompt(row.fields), len(stored))
    question = Question(
        index=row.fields["index"].strip(),
        number=row.number,
        turns=(Turn(question=text, answer=""),),
        images=tuple(stored[number] for number in order),
        answer=row.fields["answer"].strip() if benchmark.has_answers else None,
        options=options_of(row.fields),
        fields=row.fields,
        groups=tuple(
            (column, value)
            for column in benchmark.group_columns
            if column in row.fields
            for value in split_list(row.fields[column])
        ),
    )
    benchmark.check(question)
    return question
