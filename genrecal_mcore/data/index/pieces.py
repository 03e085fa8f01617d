"""Cuts the records of all files into pieces to be checked, and keeps what was found of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from genrecal_mcore.config import DataConfig
from genrecal_mcore.data.index.check import CheckedSample, check_record
from genrecal_mcore.data.index.inputs import IndexInputs
from genrecal_mcore.data.index.layout import COLUMNS, COUNTS, SkippedSample, skipped_line
from genrecal_mcore.data.index.workshop import Workshop
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.shared_tokens import SHARED_TOKENS
from genrecal_mcore.data.sources import Record, scan_file

MOST_PIECES, SMALLEST_PIECE, LARGEST_PIECE = 1024, 16, 8192
"""Pieces are shared out to workers, and one that was begun is lost in an interruption."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """Consecutive records of the files in order; the same for any number of workers."""

    num_records: tuple[int, ...]
    """Of each file."""

    def __len__(self) -> int:
        return -(-self.total // self.size)

    @property
    def total(self) -> int:
        """Records of all files."""
        return sum(self.num_records)

    @property
    def size(self) -> int:
        """Records of each piece but the last."""
        return min(LARGEST_PIECE, max(SMALLEST_PIECE, -(-self.total // MOST_PIECES)))

    def __getitem__(self, number: int) -> range:
        """Return the numbers of a piece's records among all."""
        return range(self.total)[number * self.size : (number + 1) * self.size]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scans:
    """Finds the records of files."""

    workshop: Workshop
    inputs: IndexInputs

    def scan(self, number: int) -> int:
        """Find the records of a file and return how many they are."""
        places = scan_file(self.inputs.files[number].path)
        self.workshop.write_scan(number, places)
        return len(places)

    def pieces(self) -> Pieces:
        """Return the pieces, once all files are scanned; raises `ValueError` when they hold no record."""
        scans = [self.workshop.open_scan(number) for number in range(len(self.inputs.files))]
        pieces = Pieces(num_records=tuple(map(len, scans)))
        if not pieces.total:
            raise ValueError("data.sources hold no samples; name files with at least one")
        return pieces


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """Checks pieces; travels to other processes with the processors' folders."""

    workshop: Workshop
    inputs: IndexInputs
    pieces: Pieces
    data: DataConfig
    processors: Mapping[str, ModelProcessor | None]

    def check(self, number: int) -> int:
        """Check the records of a piece and return how many they are."""
        found = [
            (place, check_record(record, self.data, self.processors))
            for place, record in self._records(self.pieces[number])
        ]
        self.workshop.write_part(number, _part_of(found, self.inputs.source_of_file))
        return len(found)

    def _records(self, numbers: range) -> Iterator[tuple[tuple[int, ...], Record]]:
        """Yield (row of `places`, record) for consecutive records, given their numbers among all."""
        bounds = [0, *accumulate(self.pieces.num_records)]
        first = np.searchsorted(bounds, numbers.start, side="right") - 1
        for file in range(int(first), len(self.pieces.num_records)):
            start, stop = numbers.start - bounds[file], numbers.stop - bounds[file]
            if stop <= 0:
                return
            for place in self.workshop.open_scan(file)[max(0, start) : stop].tolist():
                yield (file, *place), self._record(file, place)

    def _record(self, file: int, place: Sequence[int]) -> Record:
        first, second, number = place
        source = self.data.sources[self.inputs.source_of_file[file]]
        return Record(source=source, file=self.inputs.files[file].path, place=(first, second), number=number)


def _part_of(
    found: Sequence[tuple[tuple[int, ...], CheckedSample | SkippedSample]], source_of_file: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return what was found as arrays: columns of the samples that passed, and those that did not."""
    passed = [(place, entry) for place, entry in found if isinstance(entry, CheckedSample)]
    skipped = [(place, entry) for place, entry in found if isinstance(entry, SkippedSample)]
    facts = [entry.facts for _, entry in passed]
    names, domains = np.unique(
        np.array([entry.sample.domain or "" for _, entry in passed], dtype=np.str_), return_inverse=True
    )
    lines = "".join(skipped_line(entry) for _, entry in skipped)
    return {
        "places": _column("places", [place for place, _ in passed]),
        "counts": _column("counts", [[getattr(of, name) for name in COUNTS] for of in facts]),
        "shared_tokens": _column("shared_tokens", [SHARED_TOKENS.index(of.shared_tokens) for of in facts]),
        "digests": _column("digests", [list(entry.digest) for _, entry in passed]),
        "image_sizes": _column("image_sizes", [size for of in facts for size in of.image_sizes]),
        "num_images": np.array([len(of.image_sizes) for of in facts], dtype=np.int64),
        "domains": domains.astype(np.int32),
        "domain_names": names,
        "skipped_lines": np.frombuffer(lines.encode(), dtype=np.uint8),
        "skipped_sources": np.array([source_of_file[place[0]] for place, _ in skipped], dtype=np.int64),
    }


def _column(name: str, rows: Sequence[Any]) -> np.ndarray:
    column = COLUMNS[name]
    return np.array(rows, dtype=column.dtype).reshape(-1, *column.shape)
