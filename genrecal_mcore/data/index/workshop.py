"""The folder in which an index is made: what was found of each file and each piece, until all is there.

Every file in it appears whole, by a rename, and holds what its name says and nothing else, so that a build
that was interrupted goes on, with any number of workers.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrecal_mcore.data.index.inputs import IndexInputs

INPUTS_NAME = "inputs.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """A folder beside the index that is being made."""

    folder: Path

    def begin(self, inputs: IndexInputs) -> None:
        """Keep what is there of the same inputs, and throw away what is there of others."""
        path, text = self.folder / INPUTS_NAME, inputs.model_dump_json(indent=1)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")

    def missing_scans(self, num_files: int) -> list[int]:
        """Return the numbers of the files whose records are not found yet."""
        there = {path.name for path in self.folder.iterdir()}
        return [number for number in range(num_files) if self._scan(number).name not in there]

    def missing_parts(self, num_parts: int) -> list[int]:
        """Return the numbers of the pieces that are not checked yet."""
        there = {path.name for path in self.folder.iterdir()}
        return [number for number in range(num_parts) if self._part(number).name not in there]

    def write_scan(self, number: int, places: np.ndarray) -> None:
        """Keep where the records of a file lie, `[n, 3]`."""
        path = self._scan(number)
        with _partial(path).open("wb") as file:
            np.save(file, places, allow_pickle=False)
        _partial(path).rename(path)

    def open_scan(self, number: int) -> np.ndarray:
        """Map into memory where the records of a file lie, `[n, 3]`."""
        return np.load(self._scan(number), mmap_mode="r")

    def write_part(self, number: int, part: Mapping[str, np.ndarray]) -> None:
        """Keep what was found of a piece, as named arrays."""
        path = self._part(number)
        with _partial(path).open("wb") as file:
            np.savez(file, allow_pickle=False, **part)
        _partial(path).rename(path)

    def read_parts(self, name: str, num_parts: int) -> list[np.ndarray]:
        """Return one array of every part."""
        arrays = []
        for number in range(num_parts):
            with np.load(self._part(number)) as part:
                arrays.append(part[name])
        return arrays

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _scan(self, number: int) -> Path:
        return self.folder / f"file_{number:06d}.npy"

    def _part(self, number: int) -> Path:
        return self.folder / f"part_{number:06d}.npz"


def _partial(path: Path) -> Path:
    return path.with_name(f".partial_{path.name}")
