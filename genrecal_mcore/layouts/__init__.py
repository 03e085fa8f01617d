"""Hugging Face checkpoints as their makers publish them, seen as transformers' native classes name them.

Two-way tables, one a layout; nothing is run from a checkpoint and nothing unpickled. Start with `checkpoint`,
then `internvl_chat` for what a table looks like.
"""

from genrecal_mcore.layouts.checkpoint import (
    Checkpoint,
    Layout,
    TensorSource,
    is_native,
    layout_named,
    native_config,
    native_config_of,
    open_checkpoint,
    published_tensors,
)
from genrecal_mcore.layouts.folder import HfFolder, open_hf_folder, read_json_object, tensor_names
from genrecal_mcore.layouts.language_spec import language_body_spec

__all__ = [
    "Checkpoint",
    "HfFolder",
    "Layout",
    "TensorSource",
    "is_native",
    "language_body_spec",
    "layout_named",
    "native_config",
    "native_config_of",
    "open_checkpoint",
    "open_hf_folder",
    "published_tensors",
    "read_json_object",
    "tensor_names",
]
