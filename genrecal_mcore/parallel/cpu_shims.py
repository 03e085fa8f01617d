"""Lets megatron-core 0.16 run on a machine without CUDA.

It asks for the current CUDA device where it allocates small tensors (rotary embeddings, sequence-parallel
mappings) and synchronises CUDA after a checkpoint. On CPU the device is `cpu` and there is nothing to
synchronise. Everything else of megatron-core that we use runs unchanged.
"""

from typing import Any

import torch


def _current_device() -> torch.device:
    return torch.device("cpu")


def _synchronize(device: Any = None) -> None:
    """Do nothing: CPU tensors are ready when the call that makes them returns."""


def install_cpu_shims() -> None:
    """Point `torch.cuda.current_device` and `torch.cuda.synchronize` at the CPU, in this process.

    Raises `RuntimeError` where CUDA is available: there the real functions are needed.
    """
    if torch.cuda.is_available():
        raise RuntimeError("the CPU shims of megatron-core were asked for on a machine with CUDA")
    torch.cuda.current_device = _current_device  # type: ignore[assignment]
    torch.cuda.synchronize = _synchronize
