"""One file of a feature cache: the rows of some samples in safetensors, each under its sample's key.

A shard is written under a temporary name and renamed when it is whole. Its name follows from its keys, so
that no two writers fight for one. Beside each tensor stands its CRC-32, which is looked at when it is read:
to hash a whole cache at every start would take as long as to compute it anew.
"""

import os
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

SHARDS_NAME = "shards"
PARTIAL_PREFIX = ".partial_"
HEADER_BYTES = 150
"""About what a sample takes in a shard's header: name, dtype, shape, offsets and checksum."""


def sample_bytes(num_rows: int, *, row_bytes: int) -> int:
    """Return about what a sample of `num_rows` rows takes on disk."""
    return num_rows * row_bytes + HEADER_BYTES


def shard_paths(folder: Path) -> list[Path]:
    """Return the whole shards of a cache, by name."""
    return sorted((folder / SHARDS_NAME).glob("[!.]*.safetensors"))


def remove_partial_shards(folder: Path) -> None:
    """Remove what writers left behind that were killed while they wrote, safetensors' own files too."""
    for path in (folder / SHARDS_NAME).glob(".*"):
        path.unlink(missing_ok=True)


def shard_name(keys: Iterable[str]) -> str:
    """Return the file name of a shard that holds `keys`."""
    return f"{sha256(''.join(sorted(keys)).encode()).hexdigest()[:24]}.safetensors"


def write_shard(folder: Path, rows: Mapping[str, torch.Tensor]) -> Path:
    """Write rows `[n, h]` by sample key and return the file, which is there whole or not at all.

    Raises `OSError` when it cannot be written; nothing is left behind then.
    """
    path = folder / SHARDS_NAME / shard_name(rows)
    partial = path.with_name(PARTIAL_PREFIX + path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(dict(rows), partial, metadata={key: checksum(tensor) for key, tensor in rows.items()})
        # safetensors gives its files to their owner alone; a cache is for whoever may read its folder.
        partial.chmod(path.parent.stat().st_mode & 0o666)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} was not written: {error}") from error
    return path


def shard_keys(path: Path) -> list[str]:
    """Return the keys of a shard from its header; raises `ValueError` when it is damaged or truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.keys()
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); remove it") from None


def checksum(rows: torch.Tensor) -> str:
    """Return the CRC-32 of a contiguous tensor's bytes in host memory."""
    return f"{zlib.crc32(rows.view(torch.uint8).numpy().data):08x}"


class Shard:
    """An open shard: mapped into memory, read where it is looked at."""

    def __init__(self, path: Path) -> None:
        """Raises `RuntimeError` when the file is gone or damaged."""
        self.path = path
        try:
            self.file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise RuntimeError(_what_to_do(path, str(error))) from None
        self.checksums = self.file.metadata() or {}

    def read(self, key: str) -> torch.Tensor:
        """Return a sample's rows `[n, h]`; raises `RuntimeError` when they are not as they were written."""
        rows = self.file.get_tensor(key)
        if checksum(rows) != self.checksums.get(key):
            raise RuntimeError(_what_to_do(self.path, f"sample {key} is not as it was written"))
        return rows


def _what_to_do(path: Path, problem: str) -> str:
    return (
        f"{path} cannot be read: {problem}; remove that file and run genrecal cache again, which writes the "
        "samples that are missing then"
    )
