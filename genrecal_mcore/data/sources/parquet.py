"""Parquet files as Hugging Face `datasets` writes them, images inside.

A row is read by decoding the columns that are asked for of its row group, so images cost nothing where no
pixels are wanted. The last few row groups are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrecal_mcore.data.sources.record import RawRecord, Record, SourceKind
from genrecal_mcore.data.types import BrokenSample, SampleImage

TEXT_COLUMNS = ("conversations", "messages")
IMAGE_COLUMNS = ("image", "images")
OTHER_COLUMNS = ("id", "domain", "source")
KEPT_FILES, KEPT_ROW_GROUPS = 16, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInParquet:
    """An image in a row: a struct of `bytes` and `path`, as `datasets` has it, or bytes alone."""

    name: str
    file: Path
    place: tuple[int, int]
    """Row group, row in it."""
    column: str
    position: int | None
    """Of a list; None where the column holds one image a row."""
    folder: Path | None
    """Where images are that the row only names."""

    def __str__(self) -> str:
        return f"{self.name} of {self.file}"

    def open(self) -> Path | BinaryIO:
        """Return the image's bytes, or the file that the row names instead."""
        value = _cell(self.file, self.place, (self.column,), self.column)
        if self.position is not None:
            value = value[self.position]
        data = value["bytes"] if isinstance(value, dict) else value
        if data is not None:
            return BytesIO(data)
        if not isinstance(value, dict) or not value.get("path") or self.folder is None:
            raise BrokenSample(f"the image {self} has no bytes, and no file in data.sources[].images")
        return self.folder / value["path"]


def scan_parquet(path: Path) -> np.ndarray:
    """Return the rows of a file, `[n, 3]`: row group, row in it, number in the file."""
    file = _opened(path)
    _check_columns(path, file.schema_arrow)
    metadata = file.metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    rows = [np.arange(size, dtype=np.int64) for size in sizes]
    groups = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    numbers = np.arange(1, sum(sizes) + 1, dtype=np.int64)
    return np.stack([groups, np.concatenate([*rows, numbers[:0]]), numbers], axis=1)


def read_row(record: Record) -> RawRecord:
    """Read the text of one row and find its images, which are not read."""
    schema = _opened(record.file).schema_arrow
    texts = [name for name in (*TEXT_COLUMNS, *OTHER_COLUMNS) if name in schema.names]
    column = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    names = _leaves_without_bytes(record.file, column) if column else []
    columns = (*texts, *names)
    fields = {name: _cell(record.file, record.place, columns, name) for name in texts}
    if column is None:
        return RawRecord(fields=fields)
    value = _cell(record.file, record.place, columns, column)
    if _is_text(value):
        return RawRecord(fields=fields | {"image": value})
    return RawRecord(fields=fields, images=tuple(_images(record, column, value)))


def _images(record: Record, column: str, value: Any) -> list[SampleImage]:
    """Return the images of a cell of which all but the bytes was read."""
    is_list = isinstance(value, list)
    items = value if is_list else [value]
    return [
        ImageInParquet(
            name=_path_of(item) or f"image {number + 1} in row {record.number}",
            file=record.file,
            place=record.place,
            column=column,
            position=number if is_list else None,
            folder=record.source.images,
        )
        for number, item in enumerate(items)
        if item is not None
    ]


def _path_of(item: Any) -> str | None:
    return item.get("path") if isinstance(item, dict) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or bool(value) and isinstance(value, list) and isinstance(value[0], str)


def _check_columns(path: Path, schema: pa.Schema) -> None:
    if not any(name in schema.names for name in TEXT_COLUMNS):
        raise ValueError(
            f"{path} has the columns {', '.join(schema.names)}; expected one called "
            f"{' or '.join(TEXT_COLUMNS)}"
        )


def _leaves_without_bytes(path: Path, column: str) -> list[str]:
    """Return the parts of an image column that say how many images there are and what they are called."""
    schema = _opened(path).schema
    leaves = [schema.column(number).path for number in range(len(schema))]
    return [leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")] or [column]


def _cell(path: Path, place: tuple[int, int], columns: Sequence[str], column: str) -> Any:
    group, row = place
    return _row_group(path, path.stat().st_mtime_ns, group, tuple(columns)).column(column)[row].as_py()


@lru_cache(maxsize=KEPT_ROW_GROUPS)
def _row_group(path: Path, mtime_ns: int, group: int, columns: tuple[str, ...]) -> pa.Table:
    """Decode columns of a row group; in this thread only, as each rank has processes of its own for data."""
    del mtime_ns  # of a file that was written anew, nothing is kept
    try:
        return _opened(path).read_row_group(group, columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: row group {group} cannot be read ({error}); fetch it again") from None


def _opened(path: Path) -> pq.ParquetFile:
    return _open(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=KEPT_FILES)
def _open(path: Path, mtime_ns: int) -> pq.ParquetFile:
    del mtime_ns
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole parquet file ({error}); fetch it again") from None


PARQUET = SourceKind(scan=scan_parquet, read=read_row)
