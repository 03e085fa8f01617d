"""Describes a feature cache: the `cache.json` of its folder, and what must agree before it is used.

cache.json   this record
shards/      safetensors files, see `shards`
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

RECORD_NAME = "cache.json"
FORMAT_VERSION: Literal[1] = 1
"""Rises with every change to the files, to the keys of samples and to how samples are rendered."""


class CacheRecord(BaseModel):
    """What decides the rows of a cache, apart from the samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    teacher: str
    """Digest of the teacher's files, see `TeacherManifest.digest`."""
    processor: str
    """Digest of the files and the chat format by which the teacher sees samples."""
    dtype: Literal["float32", "bfloat16", "float16"]
    hidden_size: int
    rows: Literal["answers", "all"]
    """`answers`: of each answer the boundary row and its own; `all`: every row of a sample."""

    @property
    def with_questions(self) -> bool:
        """Whether every row is there."""
        return self.rows == "all"

    @property
    def row_bytes(self) -> int:
        """What a row takes."""
        return self.hidden_size * getattr(torch, self.dtype).itemsize


def has_record(folder: Path) -> bool:
    """Tell whether there is a cache."""
    return (folder / RECORD_NAME).is_file()


def load_record(folder: Path) -> CacheRecord:
    """Read `folder/cache.json`; raises `ValueError` when it is missing or not a record of this version."""
    path = folder / RECORD_NAME
    if not has_record(folder):
        raise ValueError(f"{path} does not exist; name a feature cache, or write one with genrecal cache")
    try:
        return CacheRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise ValueError(
            f"{path} is not the record of a feature cache of version {FORMAT_VERSION}: {problems}; write "
            "another cache"
        ) from None


def check_record(folder: Path, expected: CacheRecord, *, fields: tuple[str, ...]) -> CacheRecord:
    """Return a cache's record; raises `ValueError` naming each of `fields` in which it is not `expected`."""
    found = load_record(folder)
    wrong = [name for name in fields if getattr(found, name) != getattr(expected, name)]
    if wrong:
        details = ", ".join(f"{name} {getattr(found, name)}, not {getattr(expected, name)}" for name in wrong)
        raise ValueError(
            f"the feature cache {folder} was written with {details}; name another cache, or the teacher, its "
            "tokenizer files and the teacher.cache_rows that it was written with"
        )
    return found


def create_record(folder: Path, record: CacheRecord) -> None:
    """Write `folder/cache.json`, at once or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".partial_{RECORD_NAME}"
    partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / RECORD_NAME)
