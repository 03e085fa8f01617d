"""Bad checkpoints in their makers' layouts: the message names file, key, expected and found, as published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_tools.conversion import convert_to_mcore
from checkpoint_tools.verification.tiny import original_model, randomize, tiny_model, write_published

pytestmark = pytest.mark.families

WQKV = "language_model.model.layers.1.attention.wqkv.weight"
QKV = "vision_model.encoder.layers.1.attn.qkv.weight"
Tensors = dict[str, torch.Tensor]


def set_body(config: dict[str, Any], **fields: Any) -> None:
    config["llm_config"] |= fields


def tensor_cases() -> list[tuple[str, str, Callable[[Tensors], object], str]]:
    return [
        ("missing", "InternVL2.5-2B", lambda t: t.pop(WQKV), rf"1 missing \({WQKV}\); 0 unknown"),
        (
            "too-few-rows-of-wqkv",
            "InternVL2.5-2B",
            lambda t: t.update({WQKV: t[WQKV][:95].clone()}),
            rf"model\.safetensors: tensor {WQKV} of shape \(95, 48\) does not hold what config\.json says",
        ),
        (
            "two-rows-of-qkv",
            "InternVL2.5-1B",
            lambda t: t.update({QKV: t[QKV][:2].clone()}),
            rf"tensor {QKV} of shape \(2, 24\) does not hold .*expected 3 parts, found 2",
        ),
        (
            "unfused-key-in-internlm2",
            "InternVL2.5-8B",
            lambda t: t.update({"language_model.model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4)}),
            r"1 unknown \(language_model\.model\.layers\.0\.self_attn\.q_proj\.weight\)",
        ),
        (
            "no-dummy-heads-in-nvlm",
            "NVLM-D-72B",
            lambda t: t.update({QKV: t[QKV][:72].clone()}),
            rf"tensor {QKV} of shape \(72, 24\) does not hold .*expected 240 rows, 7 heads more",
        ),
        (
            "qk-norm-of-heads-not-of-all-channels",
            "InternVL2.5-78B",
            lambda t: t.update({"vision_model.encoder.layers.0.attn.q_norm.weight": torch.ones(8)}),
            r"attn\.q_norm\.weight \(8,\) instead of \(24,\)",
        ),
    ]


def config_cases() -> list[tuple[str, str, Callable[[dict[str, Any]], object], str]]:
    return [
        (
            "unknown-body",
            "InternVL2.5-2B",
            lambda c: set_body(c, architectures=["Phi3ForCausalLM"]),
            r"llm_config\.architectures is \['Phi3ForCausalLM'\]; expected one of",
        ),
        ("no-body", "InternVL2.5-2B", lambda c: c.pop("llm_config"), r"config\.json lacks llm_config"),
        (
            "lora",
            "InternVL2.5-1B",
            lambda c: c.update(use_llm_lora=16),
            r"asks for LoRA adapters; merge them into the weights first",
        ),
        (
            "transposed-tiles",
            "InternVL2.5-1B",
            lambda c: c.update(ps_version="v1"),
            r"ps_version 'v1' is not supported; expected 'v2'",
        ),
        (
            "tie-flag-that-the-files-contradict",
            "InternVL2.5-4B",
            lambda c: set_body(c, tie_word_embeddings=True),
            r"config\.json says tie_word_embeddings, but language_model\.lm_head\.weight differs",
        ),
        (
            "linear-rope",
            "InternVL2.5-8B",
            lambda c: set_body(c, rope_scaling={"type": "linear", "factor": 2.0}),
            r"of type 'linear' is not supported; expected one of",
        ),
        (
            "more-groups-than-the-files",
            "InternVL2.5-8B",
            lambda c: set_body(c, num_key_value_heads=4),
            r"of another shape|does not hold what config\.json says",
        ),
    ]


def tiny_folder(root: Path, name: str) -> Path:
    model = tiny_model(name)
    return write_published(root / "source", model, randomize(original_model(model), seed=0))


def assert_refused(source: Path, tmp_path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_to_mcore(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize(
    ("name", "change", "message"), [pytest.param(*case[1:], id=case[0]) for case in tensor_cases()]
)
def test_damaged_tensors_are_named_as_published(
    name: str, change: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    source = tiny_folder(tmp_path, name)
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert_refused(source, tmp_path, message)


@pytest.mark.parametrize(
    ("name", "change", "message"), [pytest.param(*case[1:], id=case[0]) for case in config_cases()]
)
def test_a_config_that_is_not_supported_is_refused(
    name: str, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    source = tiny_folder(tmp_path, name)
    config = json.loads((source / "config.json").read_text())
    change(config)
    (source / "config.json").write_text(json.dumps(config))
    assert_refused(source, tmp_path, message)


def test_a_folder_whose_tokenizer_lacks_the_image_token_is_refused(tmp_path: Path) -> None:
    source = tiny_folder(tmp_path, "InternVL2.5-1B")
    (source / "added_tokens.json").write_text("{}")
    assert_refused(source, tmp_path, r"has the token '<IMG_CONTEXT>'")
