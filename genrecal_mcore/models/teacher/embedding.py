"""Reads the teacher's input embedding, which student ranks may need for the answers' tokens.

They keep it in host memory and copy a unit's few rows to the device: at 152,064 x 8,192 in bfloat16 it is
2.5 GB, which a GPU would rather hold something else in. Sending such rows would need routes from the first
stage too.
"""

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from genrecal_mcore.config import load_teacher_manifest
from genrecal_mcore.models.teacher.head import load_teacher_head

KEY = "embedding.word_embeddings.weight"


def load_teacher_embedding(folder: Path) -> torch.Tensor:
    """Return `[v, h_t]` on the CPU, from a converted checkpoint folder; of a tied head, the head.

    Raises `ValueError` when the checkpoint lacks it.
    """
    manifest = load_teacher_manifest(folder)
    if manifest.language.tied_embeddings:
        return load_teacher_head(folder, device=torch.device("cpu"))
    reader = dcp.FileSystemReader(folder / "language")
    if KEY not in reader.read_metadata().state_dict_metadata:
        raise ValueError(f"{folder / 'language'} lacks the tensor {KEY}; convert the teacher again")
    shape = manifest.language.vocab_size, manifest.language.hidden_size
    tensors = {KEY: torch.empty(shape, dtype=getattr(torch, manifest.dtype))}
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors[KEY]
