"""Reads a Hugging Face checkpoint folder: its config and its safetensors, tensor by tensor."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class HfFolder:
    """Where each tensor of a checkpoint lies."""

    path: Path
    config: dict[str, Any]
    file_of: dict[str, Path]

    def read(self, key: str) -> torch.Tensor:
        """Read one tensor; raises `ValueError` naming file and key when it cannot be read."""
        path = self.file_of[key]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: cannot read tensor {key} ({error}); download the file again") from None

    def read_rows(self, key: str, start: int, end: int) -> torch.Tensor:
        """Read rows `[start, end)` of one tensor."""
        with safe_open(self.file_of[key], framework="pt") as file:
            return file.get_slice(key)[start:end]

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape from the file's header."""
        with safe_open(self.file_of[key], framework="pt") as file:
            return tuple(file.get_slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype:
        """Return a tensor's dtype from the file's header."""
        with safe_open(self.file_of[key], framework="pt") as file:
            return file.get_slice(key)[:0].dtype


def open_hf_folder(path: Path) -> HfFolder:
    """Open a checkpoint folder.

    Raises `ValueError` naming the file for a config that is missing or not JSON, weights that are missing,
    truncated or pickled, and an index that promises what its files do not hold.
    """
    return HfFolder(path=path, config=read_json_object(path / "config.json"), file_of=_locate_tensors(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `ValueError` naming the file when it is missing or none."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a Hugging Face checkpoint folder")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def _locate_tensors(path: Path) -> dict[str, Path]:
    if (path / INDEX_NAME).is_file():
        return _locate_in_shards(path)
    if (path / SINGLE_NAME).is_file():
        return {key: path / SINGLE_NAME for key in tensor_names(path / SINGLE_NAME)}
    if any(path.glob("*.bin")):
        raise ValueError(
            f"{path} holds pickled .bin weights, which are not read; expected {SINGLE_NAME} or {INDEX_NAME}: "
            "save the model again with safe_serialization=True"
        )
    raise ValueError(f"{path} holds no weights; expected {SINGLE_NAME} or {INDEX_NAME}")


def _locate_in_shards(path: Path) -> dict[str, Path]:
    promised = read_json_object(path / INDEX_NAME).get("weight_map")
    if not isinstance(promised, dict) or not all(isinstance(name, str) for name in promised.values()):
        raise ValueError(f"{path / INDEX_NAME} must map tensors to files under weight_map; download it again")
    found: dict[str, Path] = {}
    for name in sorted(set(promised.values())):
        shard = path / name
        if not shard.is_file():
            raise ValueError(f"{shard} does not exist, but {INDEX_NAME} names it; download it")
        for key in tensor_names(shard):
            if key in found:
                raise ValueError(f"tensor {key} is in {found[key].name} and in {name}; expected it once")
            found[key] = shard
    missing = sorted(promised.keys() - found.keys())
    if missing:
        raise ValueError(
            f"{path / INDEX_NAME} names {len(missing)} tensors that its files lack, e.g. {missing[0]} "
            f"in {promised[missing[0]]}; download that file again"
        )
    return found


def tensor_names(path: Path) -> list[str]:
    """Return the tensor names in a safetensors file; raises `ValueError` when it is truncated or no such
    file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); download it again") from None
