"""The files of an index: plain arrays that are mapped into memory, a description, and what was left out.

index.json      what it was built from, how much there is, the digest of its content
NAME.npy        one array a column, a row a sample, in the order of sources, files and records
skipped.jsonl   the records that were left out, with their reasons
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from genrecal_mcore.data.index.inputs import IndexInputs

FORMAT_VERSION: Literal[1] = 1
MANIFEST_NAME, SKIPPED_NAME = "index.json", "skipped.jsonl"
DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """The type of an array's elements and the shape of a row."""

    dtype: type[np.generic]
    shape: tuple[int, ...] = ()


COUNTS = (
    "teacher_tokens",
    "teacher_answer_tokens",
    "student_tokens",
    "student_answer_tokens",
    "num_answers",
)
"""What is counted of a sample, zero where there is no such model."""

COLUMNS: dict[str, Column] = {
    "places": Column(dtype=np.int64, shape=(4,)),
    "tokens": Column(dtype=np.int32),
    "counts": Column(dtype=np.int32, shape=(len(COUNTS),)),
    "shared_tokens": Column(dtype=np.uint8),
    "domains": Column(dtype=np.int32),
    "digests": Column(dtype=np.uint8, shape=(DIGEST_BYTES,)),
    "first_image": Column(dtype=np.int64),
    "image_sizes": Column(dtype=np.int32, shape=(2,)),
}
"""`places`: file, the record's place in it, its number in it. `counts`: those of `COUNTS`. `tokens`: those of
the model that needs more, beside `counts` so that finding a unit reads little. `shared_tokens`: numbers in
`SHARED_TOKENS`. `domains`: numbers in the manifest's list. `first_image`: where a sample's rows of
`image_sizes` (width, height) begin, with one more at the end.
"""


class IndexManifest(BaseModel):
    """The content of `index.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    inputs: IndexInputs
    num_samples: tuple[int, ...]
    """Of each source."""
    num_skipped: tuple[int, ...]
    """Of each source."""
    domains: tuple[str | None, ...]
    """That samples have; None where some have none."""
    digest: str
    """sha256 over the samples and the processors: the identity of the data."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedSample:
    """A record that is left out, and why."""

    id: str
    source: str
    file: str | None
    """Name of the source's file; None where it has one only."""
    number: int
    """Line, item, row or sample in the file, counted from 1."""
    reason: str

    def __str__(self) -> str:
        file = f" ({self.file})" if self.file else ""
        return f"{self.source}{file} number {self.number}"


def read_manifest(folder: Path) -> IndexManifest:
    """Read `index.json`; raises `ValueError` when it is not there or not of this version's form."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(f"{folder} holds no {MANIFEST_NAME}, so it is no index of data")
    raw = json.loads(path.read_text(encoding="utf-8"))
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format {version}, and this version reads {FORMAT_VERSION}")
    try:
        return IndexManifest.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{path} is not the description of an index: {error}") from None


def open_column(folder: Path, name: str) -> np.ndarray:
    """Map a column into memory; raises `ValueError` naming its file when it is missing or damaged."""
    path, column = folder / f"{name}.npy", COLUMNS[name]
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if array.dtype != column.dtype or array.shape[1:] != column.shape:
        found = f"{array.dtype} in rows of {array.shape[1:]}"
        raise ValueError(f"{path} holds {found}; expected {column.dtype.__name__} in rows of {column.shape}")
    return array


def read_skipped(folder: Path) -> Iterator[SkippedSample]:
    """Yield the records that were left out."""
    with (folder / SKIPPED_NAME).open(encoding="utf-8") as lines:
        for line in lines:
            yield SkippedSample(**json.loads(line))


def skipped_line(entry: SkippedSample) -> str:
    """Return the line that says why a record was left out."""
    return json.dumps(asdict(entry)) + "\n"


def count_reasons(reasons: Iterable[str]) -> str:
    """Return the commonest reasons with how often each occurs, whatever names and numbers they hold."""
    kinds = Counter(re.sub(r"\d+", "N", reason.partition(":")[0]) for reason in reasons)
    return "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(5))
