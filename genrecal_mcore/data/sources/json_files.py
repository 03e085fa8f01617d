"""JSON lists and JSON lines: a record is a range of bytes, found once and read by itself ever after."""

import json
import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from genrecal_mcore.data.sources.record import RawRecord, Record, SourceKind

_SPACE = re.compile(r"[ \t\n\r]*")


def scan_lines(path: Path) -> np.ndarray:
    """Return the lines of a JSONL file that are not empty, `[n, 3]`: first byte, bytes, line number."""
    places = array("q")
    first = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                places.extend((first, len(line), number))
            first += len(line)
    return np.array(places, dtype=np.int64).reshape(-1, 3)


def scan_list(path: Path) -> np.ndarray:
    """Return the items of a file that holds one JSON list, `[n, 3]`: first byte, bytes, item number.

    The file is held in memory whole: large data sets are better kept as JSONL. Raises `ValueError` naming
    line and column where it is not JSON.
    """
    # In Latin-1 every byte is a character, so that places are bytes; the syntax of JSON is ASCII.
    text = path.read_bytes().decode("latin-1")
    try:
        return np.array(_item_places(text, path), dtype=np.int64).reshape(-1, 3)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); repair the file"
        ) from None


def _item_places(text: str, path: Path) -> "array[int]":
    places = array("q")
    decoder = json.JSONDecoder()
    at = _skip_space(text, 0)
    if text[at : at + 1] != "[":
        value, _ = decoder.raw_decode(text, at)
        raise ValueError(f"{path} must hold a list of records, found {type(value).__name__}")
    at = _skip_space(text, at + 1)
    is_done = text[at : at + 1] == "]"
    while not is_done:
        _, end = decoder.raw_decode(text, at)
        places.extend((at, end - at, len(places) // 3 + 1))
        at = _skip_space(text, end)
        is_done = text[at : at + 1] == "]"
        if not is_done:
            if text[at : at + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = _skip_space(text, at + 1)
    if _skip_space(text, at + 1) != len(text):
        raise json.JSONDecodeError("Extra data", text, at + 1)
    return places


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def read_line(record: Record) -> RawRecord:
    """Read one line; raises `ValueError` naming file, line and column when it is not JSON."""
    try:
        return RawRecord(fields=_read(record))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{record.file}, line {record.number}, column {error.colno}: not JSON ({error.msg}); repair or "
            "remove the line"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{record.file}, line {record.number}: not UTF-8 ({error}); save it as UTF-8"
        ) from None


def read_item(record: Record) -> RawRecord:
    """Read one item of a list; raises `ValueError` naming the file when it is not what was found before."""
    try:
        return RawRecord(fields=_read(record))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{record.file}, item {record.number}: not JSON ({error.msg}); the file has changed"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{record.file}: not UTF-8 ({error}); save it as UTF-8") from None


def _read(record: Record) -> Any:
    first, size = record.place
    with record.file.open("rb") as file:
        file.seek(first)
        return json.loads(file.read(size).decode())


LINES = SourceKind(scan=scan_lines, read=read_line)
LIST = SourceKind(scan=scan_list, read=read_item)
