"""The nouns of the sources: where a record lies, what is read there, and what a kind of file can do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.types import SampleImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Where a record lies: all that is needed to read it, in any process."""

    source: DataSource
    file: Path
    place: tuple[int, int]
    """JSON and tar: first byte and number of bytes; parquet: row group and row in it."""
    number: int
    """Line, item, row or sample in its file, counted from 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """What a file holds of one conversation, unchecked."""

    fields: Any
    """A mapping, if the record is as it should be."""
    images: tuple[SampleImage, ...] | None = None
    """Those that lie in the file itself; None where the fields name files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceKind:
    """What the data room can do with a kind of file."""

    scan: Callable[[Path], np.ndarray]
    """Find the records of a file: `[n, 3]` int64, each a place and a number. Raises `ValueError` naming the
    file when it is damaged or lacks what every record needs.
    """
    read: Callable[[Record], RawRecord]
    """Read one record by its place. Raises `ValueError` naming file and number when it cannot be read, and
    `BrokenSample` when that makes one sample useless.
    """
