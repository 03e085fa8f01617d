"""Reads the sizes of a decoder-only language body from a native config; refuses what we do not compute."""

from typing import Any

from pydantic import ValidationError

from genrecal_mcore.config import LanguageBodySpec


def language_body_spec(config: dict[str, Any]) -> LanguageBodySpec:
    """Read the sizes of the language body from a config, nested (version 5) or flat (older hub files).

    Raises `ValueError` naming the field that is missing, mistyped or asks for what the body does not compute.
    """
    text = config.get("text_config") or config
    if not isinstance(text, dict):
        raise ValueError(f"config.json: text_config must be an object, found {type(text).__name__}")
    _refuse_unsupported(text)
    rope = text.get("rope_parameters") or {}
    scaling = text.get("rope_scaling") or rope
    try:
        heads = text["num_attention_heads"]
        return LanguageBodySpec(
            hidden_size=text["hidden_size"],
            num_layers=text["num_hidden_layers"],
            num_attention_heads=heads,
            num_query_groups=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
            ffn_hidden_size=text["intermediate_size"],
            vocab_size=text["vocab_size"],
            norm_epsilon=text["rms_norm_eps"],
            rotary_base=rope.get("rope_theta") or text["rope_theta"],
            max_position_embeddings=text["max_position_embeddings"],
            qkv_bias=_has_qkv_bias(text),
            tied_embeddings=_is_tied(config, text),
            mrope_section=scaling.get("mrope_section"),
        )
    except KeyError as error:
        raise ValueError(f"config.json lacks {error.args[0]} of the language body") from None
    except ValidationError as error:
        fields = "; ".join(f"{e['loc'][0]}: {e['msg'].lower()}, found {e['input']!r}" for e in error.errors())
        raise ValueError(f"config.json does not describe a language body: {fields}") from None
    except TypeError as error:
        raise ValueError(f"config.json does not describe a language body: {error}") from None


PLAIN_ROPE_TYPES = ("default", "mrope", "dynamic")
"""`dynamic` equals `default` up to `max_position_embeddings` tokens; training refuses longer samples."""


def _refuse_unsupported(text: dict[str, Any]) -> None:
    """Raise `ValueError` for switches that the teacher's body would silently ignore."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = text.get(name) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in PLAIN_ROPE_TYPES:
            raise ValueError(
                f"config.json: {name} of type {kind!r} is not supported; expected one of {PLAIN_ROPE_TYPES}"
            )
    activation = text.get("hidden_act", "silu")
    if activation != "silu":
        raise ValueError(f"config.json: hidden_act {activation!r} is not supported; expected 'silu'")
    if text.get("use_sliding_window"):
        raise ValueError("config.json: use_sliding_window is true; only full attention is supported")


def _has_qkv_bias(text: dict[str, Any]) -> bool:
    if str(text.get("model_type", "")).startswith("qwen2"):
        return True
    return bool(text.get("attention_bias", False))


def _is_tied(config: dict[str, Any], text: dict[str, Any]) -> bool:
    # InternVL reads the flag at the top level only, with True as default; Qwen2-VL forwards the text
    # config's.
    if config.get("model_type") == "internvl":
        return bool(config.get("tie_word_embeddings", True))
    return bool(config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False))
