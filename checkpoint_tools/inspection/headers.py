"""Names, shapes and dtypes from the headers of checkpoint files; no tensor is read."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from checkpoint_tools.conversion import safetensors_reader
from checkpoint_tools.mcore_folder import LanguageReader
from checkpoint_tools.streaming import SAFETENSORS_DTYPES


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredHeader:
    """A tensor as a file's header has it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


_DTYPE_NAMES = {stored: str(dtype).removeprefix("torch.") for dtype, stored in SAFETENSORS_DTYPES.items()}


def stored_in_safetensors(file_of: Mapping[str, Path]) -> list[StoredHeader]:
    """Read the headers of whole safetensors files, each once, in the order of `file_of`.

    Source: the format's description in the safetensors README: length of the header, header, contents.
    """
    found: dict[str, StoredHeader] = {}
    for path in dict.fromkeys(file_of.values()):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            dtype = _DTYPE_NAMES.get(entry["dtype"], entry["dtype"])
            found[name] = StoredHeader(
                name=name, shape=tuple(entry["shape"]), dtype=dtype, num_bytes=end - start
            )
    return [found[name] for name in file_of]


def stored_in_folder(folder: Path) -> list[StoredHeader]:
    """Return what `folder/model.safetensors` holds."""
    return stored_in_safetensors(safetensors_reader(folder).file_of)


def stored_in_language(folder: Path) -> list[StoredHeader]:
    """Return what a `language/` folder holds; raises `ValueError` when its metadata cannot be read."""
    try:
        stored = LanguageReader(folder).stored
    except Exception as error:  # a damaged pickle raises what it likes
        raise ValueError(
            f"{folder / '.metadata'} cannot be read ({type(error).__name__}); convert the teacher again"
        ) from None
    return [
        StoredHeader(
            name=name,
            shape=tuple(entry.size),
            dtype=str(entry.properties.dtype).removeprefix("torch."),
            num_bytes=entry.size.numel() * entry.properties.dtype.itemsize,
        )
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    ]
