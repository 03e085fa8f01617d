"""The layout in which InternVL's makers publish: `internvl_chat` with a Qwen2, Llama or InternLM2 body.

Source: `modeling_internvl_chat.py`, `modeling_intern_vit.py`, `modeling_internlm2.py` of OpenGVLab/InternVL;
`convert_internvl_weights_to_hf.py` of transformers has the same names for the first two bodies.
"""

from collections.abc import Mapping
from typing import Any

from genrecal_mcore.layouts.rows import Row, grouped_qkv, renamed, stacked

_VIT = "vision_model.encoder.layers.{n}."
_TOWER = "model.vision_tower.encoder.layer.{n}."

VISION = (
    renamed("vision_model.embeddings.class_embedding", "model.vision_tower.embeddings.cls_token"),
    renamed(
        "vision_model.embeddings.position_embedding", "model.vision_tower.embeddings.position_embeddings"
    ),
    renamed(
        "vision_model.embeddings.patch_embedding.{p}",
        "model.vision_tower.embeddings.patch_embeddings.projection.{p}",
    ),
    renamed(_VIT + "norm1.{p}", _TOWER + "layernorm_before.{p}"),
    renamed(_VIT + "norm2.{p}", _TOWER + "layernorm_after.{p}"),
    renamed(_VIT + "ls1", _TOWER + "lambda_1"),
    renamed(_VIT + "ls2", _TOWER + "lambda_2"),
    renamed(_VIT + "mlp.fc1.{p}", _TOWER + "mlp.fc1.{p}"),
    renamed(_VIT + "mlp.fc2.{p}", _TOWER + "mlp.fc2.{p}"),
    renamed("mlp1.0.{p}", "model.multi_modal_projector.layer_norm.{p}"),
    renamed("mlp1.1.{p}", "model.multi_modal_projector.linear_1.{p}"),
    renamed("mlp1.3.{p}", "model.multi_modal_projector.linear_2.{p}"),
)

VISION_ATTENTION = (
    stacked(
        _VIT + "attn.qkv.{p}",
        _TOWER + "attention.q_proj.{p}",
        _TOWER + "attention.k_proj.{p}",
        _TOWER + "attention.v_proj.{p}",
    ),
    renamed(_VIT + "attn.proj.{p}", _TOWER + "attention.projection_layer.{p}"),
    renamed(_VIT + "attn.q_norm.{p}", _TOWER + "attention.q_norm.{p}"),
    renamed(_VIT + "attn.k_norm.{p}", _TOWER + "attention.k_norm.{p}"),
)

LLAMA_BODY = (
    renamed("language_model.model.{rest}", "model.language_model.{rest}"),
    renamed("language_model.lm_head.{p}", "lm_head.{p}"),
)
"""Qwen2 has the same names."""

_ILM = "language_model.model.layers.{n}."
_LAYER = "model.language_model.layers.{n}."

INTERNLM2_BODY = (
    renamed("language_model.model.tok_embeddings.{p}", "model.language_model.embed_tokens.{p}"),
    grouped_qkv(
        _ILM + "attention.wqkv.{p}",
        _LAYER + "self_attn.q_proj.{p}",
        _LAYER + "self_attn.k_proj.{p}",
        _LAYER + "self_attn.v_proj.{p}",
    ),
    renamed(_ILM + "attention.wo.{p}", _LAYER + "self_attn.o_proj.{p}"),
    renamed(_ILM + "feed_forward.w1.{p}", _LAYER + "mlp.gate_proj.{p}"),
    renamed(_ILM + "feed_forward.w2.{p}", _LAYER + "mlp.down_proj.{p}"),
    renamed(_ILM + "feed_forward.w3.{p}", _LAYER + "mlp.up_proj.{p}"),
    renamed(_ILM + "attention_norm.{p}", _LAYER + "input_layernorm.{p}"),
    renamed(_ILM + "ffn_norm.{p}", _LAYER + "post_attention_layernorm.{p}"),
    renamed("language_model.model.norm.{p}", "model.language_model.norm.{p}"),
    renamed("language_model.output.{p}", "lm_head.{p}"),
)

_BODIES = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama", "InternLM2ForCausalLM": "llama"}


def rows(published: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the table for a published config."""
    is_internlm2 = architecture(published) == "InternLM2ForCausalLM"
    return VISION + VISION_ATTENTION + (INTERNLM2_BODY if is_internlm2 else LLAMA_BODY)


def architecture(published: Mapping[str, Any]) -> str:
    """Return the class of the language body; raises `ValueError` when it is none that we know.

    The class decides, not `model_type`: NVLM-D says `llama` there and is Qwen2.
    """
    found = (published.get("llm_config") or {}).get("architectures") or [None]
    if found[0] not in _BODIES:
        raise ValueError(
            f"config.json: llm_config.architectures is {found}; expected one of {sorted(_BODIES)}"
        )
    return found[0]


def native_config(published: Mapping[str, Any], *, image_token_id: int) -> dict[str, Any]:
    """Return the `config.json` of the same model in transformers' native layout.

    Raises `ValueError` for settings that the native classes do not compute.
    """
    _refuse_unsupported(published)
    vision, size = published["vision_config"], published["force_image_size"]
    downsample = published.get("downsample_ratio", 0.5)
    patches = size // vision["patch_size"]
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "dtype": published.get("torch_dtype", published.get("dtype")),
        "image_token_id": image_token_id,
        "image_seq_length": int(patches * patches * downsample * downsample),
        "downsample_ratio": downsample,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": published.get("select_layer", -1),
        "vision_feature_select_strategy": "default",
        # At the top level: the class takes its default, true, when it stands in text_config alone.
        "tie_word_embeddings": bool(published["llm_config"].get("tie_word_embeddings", False)),
        "vision_config": _vision_config(vision, size=size),
        "text_config": text_config(published),
    }


def _vision_config(vision: Mapping[str, Any], *, size: int) -> dict[str, Any]:
    patch = vision["patch_size"]
    return {
        "model_type": "internvl_vision",
        "hidden_size": vision["hidden_size"],
        "intermediate_size": vision["intermediate_size"],
        "num_hidden_layers": vision["num_hidden_layers"],
        "num_attention_heads": vision["num_attention_heads"],
        "attention_bias": vision["qkv_bias"],
        "use_qk_norm": vision["qk_normalization"],
        "norm_type": vision["norm_type"],
        "layer_norm_eps": vision["layer_norm_eps"],
        "hidden_act": vision["hidden_act"],
        "image_size": [size, size],
        "patch_size": [patch, patch],
        "num_channels": vision.get("num_channels", 3),
        "use_mean_pooling": True,  # or the native class puts a norm after the tower that no file has
    }


_TEXT_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "use_sliding_window",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def text_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return the native config of the language body: Qwen2's, or Llama's for Llama and InternLM2."""
    body = published["llm_config"]
    config = {name: body[name] for name in _TEXT_FIELDS if body.get(name) is not None}
    model_type = _BODIES[architecture(published)]
    scaling = body.get("rope_scaling") or {}
    rope = {"rope_type": scaling.get("rope_type", scaling.get("type", "default"))}
    rope |= {"rope_theta": body.get("rope_theta", 10000.0)}
    if "factor" in scaling:
        rope["factor"] = scaling["factor"]
    if model_type == "llama":
        config["attention_bias"] = bool(body.get("bias", body.get("attention_bias", False)))
    return {
        "model_type": model_type,
        **config,
        "rope_parameters": rope,
        "tie_word_embeddings": bool(body.get("tie_word_embeddings", False)),
    }


def _refuse_unsupported(published: Mapping[str, Any]) -> None:
    for name in ("llm_config", "vision_config", "force_image_size"):
        if not published.get(name):
            raise ValueError(f"config.json lacks {name}, which the layout {published['model_type']} has")
    if published.get("ps_version") != "v2":  # the makers' own default is v1, which transposes tiles
        raise ValueError(
            f"config.json: ps_version {published.get('ps_version')!r} is not supported; expected 'v2'"
        )
    if published.get("use_backbone_lora") or published.get("use_llm_lora"):
        raise ValueError("config.json asks for LoRA adapters; merge them into the weights first")
