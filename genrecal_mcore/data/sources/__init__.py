"""Where records come from: one reader a kind of file, all behind one door.

A file is scanned once for the places of its records; from then on each is read by itself. A further kind is a
module with a `SourceKind`, its suffix in `files.py` and a line in the table below.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.sources.files import files_of, is_here
from genrecal_mcore.data.sources.json_files import LINES, LIST
from genrecal_mcore.data.sources.parquet import PARQUET
from genrecal_mcore.data.sources.record import RawRecord, Record, SourceKind
from genrecal_mcore.data.sources.webdataset import WEBDATASET

KINDS: dict[str, SourceKind] = {".json": LIST, ".jsonl": LINES, ".parquet": PARQUET, ".tar": WEBDATASET}
"""By suffix."""


def scan_file(file: Path) -> np.ndarray:
    """Return the records of a file, `[n, 3]` int64: each a place of two numbers, and its number in the file.

    Raises `ValueError` naming the file when it is damaged or lacks what every record needs.
    """
    try:
        return KINDS[file.suffix.lower()].scan(file)
    except OSError as error:
        raise ValueError(f"data.sources: {file} cannot be read: {error}") from None


def read_record(record: Record) -> RawRecord:
    """Read one record.

    Raises `ValueError` naming file and number when the file is not what was scanned, and `BrokenSample` when
    the record alone is useless.
    """
    try:
        return KINDS[record.file.suffix.lower()].read(record)
    except OSError as error:
        raise ValueError(f"data.sources: {record.file} cannot be read: {error}") from None


def records_of(source: DataSource) -> Iterator[Record]:
    """Yield every record of a source in the order of its files."""
    for file in files_of(source):
        for first, second, number in scan_file(file).tolist():
            yield Record(source=source, file=file, place=(first, second), number=number)


__all__ = [
    "RawRecord",
    "Record",
    "SourceKind",
    "files_of",
    "is_here",
    "read_record",
    "records_of",
    "scan_file",
]
