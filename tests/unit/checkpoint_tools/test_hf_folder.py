from typing import Any

import pytest

from genrecal_mcore.layouts import language_body_spec

TEXT_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 306,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}
NESTED_QWEN2_VL: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "tie_word_embeddings": False,
    "text_config": TEXT_SIZES
    | {
        "model_type": "qwen2_vl_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    },
}
# As Qwen2-VL's files on the hub are.
FLAT_QWEN2_VL: dict[str, Any] = TEXT_SIZES | {
    "model_type": "qwen2_vl",
    "tie_word_embeddings": False,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
}


def internvl_config(text_model_type: str, **fields: Any) -> dict[str, Any]:
    text = TEXT_SIZES | {"model_type": text_model_type, "rope_theta": 5e5}
    return {"model_type": "internvl", "text_config": text} | fields


def test_a_flat_config_describes_the_same_body_as_a_nested_one() -> None:
    spec = language_body_spec(FLAT_QWEN2_VL)
    assert spec == language_body_spec(NESTED_QWEN2_VL)
    assert (spec.head_dim, spec.rotary_base, spec.mrope_section) == (8, 1e6, (1, 1, 2))
    assert spec.qkv_bias


@pytest.mark.parametrize(("text_model_type", "expected"), [("qwen2", True), ("llama", False)])
def test_qwen2_has_attention_biases_and_llama_has_not(text_model_type: str, expected: bool) -> None:
    assert language_body_spec(internvl_config(text_model_type)).qkv_bias == expected


def test_internvl_ties_its_head_unless_the_top_level_says_no() -> None:
    tied, untied = (internvl_config("qwen2", **fields) for fields in ({}, {"tie_word_embeddings": False}))
    untied["text_config"]["tie_word_embeddings"] = True
    assert language_body_spec(tied).tied_embeddings
    assert not language_body_spec(untied).tied_embeddings


@pytest.mark.parametrize("config", [FLAT_QWEN2_VL, NESTED_QWEN2_VL], ids=["flat", "nested"])
def test_qwen2_vl_ties_its_head_when_its_config_says_so(config: dict[str, Any]) -> None:
    assert not language_body_spec(config).tied_embeddings
    assert language_body_spec(config | {"tie_word_embeddings": True}).tied_embeddings


def test_a_missing_field_is_named() -> None:
    config = {key: value for key, value in FLAT_QWEN2_VL.items() if key != "intermediate_size"}
    with pytest.raises(ValueError, match=r"config\.json lacks intermediate_size of the language body"):
        language_body_spec(config)
