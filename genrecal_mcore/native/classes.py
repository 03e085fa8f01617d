"""Builds a family's native transformers class from a native config; nothing from a checkpoint is ever run."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.internvl.configuration_internvl import InternVLConfig
from transformers.models.internvl.modeling_internvl import InternVLForConditionalGeneration
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLForConditionalGeneration

from genrecal_mcore.config import Family
from genrecal_mcore.native.nvlm_d import NvlmDForConditionalGeneration

_CLASSES: dict[Family, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    Family.QWEN2_VL: (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    Family.QWEN2_5_VL: (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    Family.INTERNVL: (InternVLConfig, InternVLForConditionalGeneration),
    Family.NVLM_D: (InternVLConfig, NvlmDForConditionalGeneration),
}


def native_class(family: Family) -> type[PreTrainedModel]:
    """Return the class of a family's whole model."""
    return _CLASSES[family][1]


def model_config(native: Mapping[str, Any], family: Family) -> PretrainedConfig:
    """Return the transformers config of a native `config.json`, attention by SDPA."""
    fields = {name: value for name, value in native.items() if name != "model_type"}
    config = _CLASSES[family][0].from_dict(fields)
    config._attn_implementation = "sdpa"
    return config


def build_model(native: Mapping[str, Any], family: Family) -> PreTrainedModel:
    """Build the whole model on the current default device, weights not loaded."""
    return native_class(family)(model_config(native, family))


def native_shapes(native: Mapping[str, Any], family: Family) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of a model; nothing is allocated.

    A tied head is not among them: it is its embedding. Raises `ValueError` for a config of no model.
    """
    try:
        with torch.device("meta"):
            model = build_model(native, family)
    except Exception as error:  # transformers raises what it likes
        raise ValueError(f"config.json does not describe a model of {family.value}: {error}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)
    return shapes
