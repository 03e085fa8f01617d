"""The layout of NVLM-D-72B: InternViT-6B with dummy heads, a wide projector without bias, a Qwen2 body.

The makers padded 25 attention heads to 32 for their tensor parallelism. Where the padding is zero it is left
out; otherwise the wide tower is kept. Source: `nvlm_d.py` of vLLM, `examples/multimodal/nvlm/internvit.py` of
Megatron-LM.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from genrecal_mcore.layouts import internvl_chat
from genrecal_mcore.layouts.folder import HfFolder
from genrecal_mcore.layouts.rows import NativeConfig, Row, renamed

NUM_DUMMY_HEADS = 7


def rows(*, keeps_dummy_heads: bool) -> tuple[Row, ...]:
    """Return the table of the files, with the dummy heads or without."""
    attention = internvl_chat.VISION_ATTENTION if keeps_dummy_heads else _WITHOUT_DUMMIES
    return internvl_chat.VISION + attention + internvl_chat.LLAMA_BODY


def native_config(
    published: Mapping[str, Any], *, image_token_id: int, keeps_dummy_heads: bool
) -> dict[str, Any]:
    """Return a native InternVL config and two fields for what its classes lack (see `models.nvlm_d`)."""
    config = internvl_chat.native_config(published, image_token_id=image_token_id)
    config["model_type"] = "nvlm_d"
    config["projector_ffn_size"] = published["llm_config"]["intermediate_size"]
    config["vision_config"]["num_dummy_heads"] = NUM_DUMMY_HEADS if keeps_dummy_heads else 0
    return config


def has_dummy_weights(folder: HfFolder, published: Mapping[str, Any]) -> bool:
    """Tell whether any weight of a dummy head is not zero; reads the attention of every vision layer.

    A tensor that is not there or is too small counts as none: the check of names and shapes will say so.
    """
    width, wide = _widths(published)
    for layer in range(published["vision_config"]["num_hidden_layers"]):
        attention = f"vision_model.encoder.layers.{layer}.attn."
        names = [attention + f"{name}.weight" for name in ("qkv", "proj", "q_norm", "k_norm")]
        if any(name not in folder.file_of for name in names) or folder.shape(names[0])[0] != 3 * wide:
            return False
        dummies = [
            folder.read_rows(attention + "qkv.weight", part * wide + width, (part + 1) * wide)
            for part in range(3)
        ]
        dummies.append(folder.read(attention + "proj.weight")[:, width:])
        dummies += [folder.read(attention + f"{name}.weight")[width:] for name in ("q_norm", "k_norm")]
        if any(bool(dummy.any()) for dummy in dummies):
            return True
    return False


def _widths(config: NativeConfig) -> tuple[int, int]:
    """Return the channels of the real heads and of all heads, from a published config or a native one."""
    vision = config["vision_config"]
    width = vision["hidden_size"]
    return width, width + NUM_DUMMY_HEADS * (width // vision["num_attention_heads"])


def _split_qkv(tensor: torch.Tensor, config: NativeConfig) -> Sequence[torch.Tensor]:
    if tensor.shape[0] != 3 * _widths(config)[1]:
        raise RuntimeError(f"expected {3 * _widths(config)[1]} rows, {NUM_DUMMY_HEADS} heads more")
    return [_narrowed(part, config) for part in tensor.chunk(3)]


def _narrowed(tensor: torch.Tensor, config: NativeConfig) -> torch.Tensor:
    width, wide = _widths(config)
    if tensor.shape[0] != wide:
        raise RuntimeError(f"expected {wide} channels, {NUM_DUMMY_HEADS} heads more")
    return tensor[:width]


def _join_qkv(tensors: Sequence[torch.Tensor], config: NativeConfig) -> torch.Tensor:
    return torch.cat([_padded(tensor, config) for tensor in tensors])


def _padded(tensor: torch.Tensor, config: NativeConfig) -> torch.Tensor:
    width, wide = _widths(config)
    return torch.cat([tensor, tensor.new_zeros(wide - width, *tensor.shape[1:])])


_VIT, _TOWER = "vision_model.encoder.layers.{n}.attn.", "model.vision_tower.encoder.layer.{n}.attention."

_WITHOUT_DUMMIES = (
    Row(
        _VIT + "qkv.weight",
        (_TOWER + "q_proj.weight", _TOWER + "k_proj.weight", _TOWER + "v_proj.weight"),
        split=_split_qkv,
        join=_join_qkv,
    ),
    Row(
        _VIT + "proj.weight",
        (_TOWER + "projection_layer.weight",),
        split=lambda tensor, config: (_narrowed(tensor.t(), config).t(),),
        join=lambda tensors, config: _padded(tensors[0].t(), config).t(),
    ),
    renamed(_VIT + "proj.bias", _TOWER + "projection_layer.bias"),
    *(
        Row(
            _VIT + f"{name}.weight",
            (_TOWER + f"{name}.weight",),
            split=lambda tensor, config: (_narrowed(tensor, config),),
            join=lambda tensors, config: _padded(tensors[0], config),
        )
        for name in ("q_norm", "k_norm")
    ),
)
