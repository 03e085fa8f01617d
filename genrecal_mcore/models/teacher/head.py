"""Reads the teacher's head, of which every student rank holds a frozen copy."""

from pathlib import Path

import torch
from safetensors import safe_open


def load_teacher_head(folder: Path, *, device: torch.device) -> torch.Tensor:
    """Return `[v, h_t]`, the weight of the VLM-head, from a converted checkpoint folder."""
    path = folder / "head" / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected the head written by checkpoint_tools/hf2mcore.py")
    with safe_open(path, framework="pt", device=str(device)) as file:
        return file.get_tensor("weight")
