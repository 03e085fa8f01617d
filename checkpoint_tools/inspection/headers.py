"""Names, shapes and dtypes from the headers of checkpoint files; no tensor is read."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from checkpoint_tools.conversion import safetensors_reader
from checkpoint_tools.mcore_folder import LanguageReader
from genrecal_mcore.layouts import HfFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredHeader:
    """A tensor as a file's header has it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


def stored_in_safetensors(folder: HfFolder) -> list[StoredHeader]:
    """Return what the safetensors files of an open folder hold."""
    return [_header(name, folder.shape(name), folder.dtype(name)) for name in folder.file_of]


def stored_in_folder(folder: Path) -> list[StoredHeader]:
    """Return what `folder/model.safetensors` holds."""
    return stored_in_safetensors(safetensors_reader(folder))


def stored_in_language(folder: Path) -> list[StoredHeader]:
    """Return what a `language/` folder holds; raises `ValueError` when its metadata cannot be read."""
    try:
        stored = LanguageReader(folder).stored
    except Exception as error:  # a damaged pickle raises what it likes
        raise ValueError(
            f"{folder / '.metadata'} cannot be read ({type(error).__name__}); convert the teacher again"
        ) from None
    return [
        _header(name, tuple(entry.size), entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    ]


def _header(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> StoredHeader:
    return StoredHeader(
        name=name,
        shape=shape,
        dtype=str(dtype).removeprefix("torch."),
        num_bytes=math.prod(shape) * dtype.itemsize,
    )
