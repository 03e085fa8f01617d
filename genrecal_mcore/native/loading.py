"""Loads a checkpoint of any published layout into its family's native class."""

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

from genrecal_mcore.config import family_of_hf_config
from genrecal_mcore.layouts import is_native, open_checkpoint, read_json_object
from genrecal_mcore.native.classes import model_config, native_class


def load_native_model(folder: Path, *, dtype: torch.dtype | str) -> PreTrainedModel:
    """Load a VLM on CPU, attention by SDPA.

    `dtype` may be `auto`: that of the files. Raises `ValueError` naming the tensors that the folder lacks or
    has too many.
    """
    if is_native(read_json_object(folder / "config.json")):
        return _load_native_files(folder, dtype)
    checkpoint = open_checkpoint(folder)
    tensors = {key: checkpoint.read(key) for key in checkpoint.holder}
    model, info = native_class(checkpoint.family).from_pretrained(
        None,
        config=model_config(checkpoint.config, checkpoint.family),
        state_dict=tensors,
        dtype=checkpoint.dtype(next(iter(tensors))) if dtype == "auto" else dtype,
        output_loading_info=True,
    )
    problems = [*info["missing_keys"], *info["unexpected_keys"], *checkpoint.unknown]
    if problems:
        raise ValueError(f"{folder} does not fit its config.json: {sorted(problems)[:5]}")
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def _load_native_files(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    path = folder / "config.json"
    family = family_of_hf_config(read_json_object(path), where=str(path))
    model, info = native_class(family).from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} tensors of {type(model).__name__}, e.g. {missing[:3]}"
        )
    return model
