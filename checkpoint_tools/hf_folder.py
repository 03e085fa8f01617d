"""Reads a Hugging Face checkpoint folder: its config and its safetensors, tensor by tensor."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from genrecal_mcore.config import LanguageBodySpec

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class HfFolder:
    """Where each tensor of a checkpoint lies."""

    path: Path
    config: dict[str, Any]
    file_of: dict[str, Path]

    def read(self, key: str) -> torch.Tensor:
        """Read one tensor; raises `ValueError` naming file and key when it cannot be read."""
        path = self.file_of[key]
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: cannot read tensor {key} ({error}); download the file again") from None

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape from the file's header."""
        with safe_open(self.file_of[key], framework="pt") as file:
            return tuple(file.get_slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype:
        """Return a tensor's dtype from the file's header."""
        with safe_open(self.file_of[key], framework="pt") as file:
            return file.get_slice(key)[:0].dtype


def open_hf_folder(path: Path) -> HfFolder:
    """Open a checkpoint folder.

    Raises `ValueError` naming the file for a config that is missing or not JSON, weights that are missing,
    truncated or pickled, and an index that promises what its files do not hold.
    """
    config_path = path / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{config_path} does not exist; expected a Hugging Face checkpoint folder")
    return HfFolder(path=path, config=_read_object(config_path), file_of=_locate_tensors(path))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def _locate_tensors(path: Path) -> dict[str, Path]:
    if (path / INDEX_NAME).is_file():
        return _locate_in_shards(path)
    if (path / SINGLE_NAME).is_file():
        return {key: path / SINGLE_NAME for key in keys_of(path / SINGLE_NAME)}
    if any(path.glob("*.bin")):
        raise ValueError(
            f"{path} holds pickled .bin weights, which are not read; expected {SINGLE_NAME} or {INDEX_NAME}: "
            "save the model again with safe_serialization=True"
        )
    raise ValueError(f"{path} holds no weights; expected {SINGLE_NAME} or {INDEX_NAME}")


def _locate_in_shards(path: Path) -> dict[str, Path]:
    promised = _read_object(path / INDEX_NAME).get("weight_map")
    if not isinstance(promised, dict) or not all(isinstance(name, str) for name in promised.values()):
        raise ValueError(f"{path / INDEX_NAME} must map tensors to files under weight_map; download it again")
    found: dict[str, Path] = {}
    for name in sorted(set(promised.values())):
        shard = path / name
        if not shard.is_file():
            raise ValueError(f"{shard} does not exist, but {INDEX_NAME} names it; download it")
        for key in keys_of(shard):
            if key in found:
                raise ValueError(f"tensor {key} is in {found[key].name} and in {name}; expected it once")
            found[key] = shard
    missing = sorted(promised.keys() - found.keys())
    if missing:
        raise ValueError(
            f"{path / INDEX_NAME} names {len(missing)} tensors that its files lack, e.g. {missing[0]} "
            f"in {promised[missing[0]]}; download that file again"
        )
    return found


def keys_of(path: Path) -> list[str]:
    """Return the tensor names in a safetensors file; raises `ValueError` when it is truncated or no such
    file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); download it again") from None


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
