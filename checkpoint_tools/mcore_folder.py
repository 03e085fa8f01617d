"""Writes and reads the folder of a converted teacher (see `genrecal_mcore.config.teacher_manifest`)."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from genrecal_mcore.config import TeacherManifest, sha256_of

# What megatron.core.dist_checkpointing expects beside the tensors of a `torch_dist` checkpoint.
MEGATRON_METADATA = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def write_megatron_metadata(folder: Path) -> None:
    """Write the two files that Megatron expects beside the tensors of a `torch_dist` checkpoint."""
    torch.save({}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(MEGATRON_METADATA), encoding="utf-8")


def write_manifest(folder: Path, manifest: TeacherManifest, *, known: Mapping[str, str]) -> None:
    """Write `teacher.json` with the digest of every file that is in the folder; `known` ones are not read."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    digests = {name: known.get(name) or sha256_of(path) for name, path in files.items()}
    whole = manifest.model_copy(update={"digests": digests})
    (folder / "teacher.json").write_text(whole.model_dump_json(indent=2) + "\n", encoding="utf-8")


class LanguageReader:
    """Reads whole tensors of a `language/` folder by their Megatron names."""

    def __init__(self, folder: Path) -> None:
        self.reader = dcp.FileSystemReader(folder)
        self.stored = self.reader.read_metadata().state_dict_metadata

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape; raises `ValueError` when it is not there."""
        return tuple(self._stored(key).size)

    def _stored(self, key: str) -> TensorStorageMetadata:
        stored = self.stored.get(key)
        if not isinstance(stored, TensorStorageMetadata):
            raise ValueError(f"{self.reader.path} lacks the tensor {key}; convert the teacher again")
        return stored

    def read(self, key: str) -> torch.Tensor:
        """Read one tensor; raises `ValueError` when it is not there."""
        stored = self._stored(key)
        tensor = {key: torch.empty(stored.size, dtype=stored.properties.dtype)}
        dcp.load(tensor, storage_reader=self.reader, no_dist=True)
        return tensor[key]
