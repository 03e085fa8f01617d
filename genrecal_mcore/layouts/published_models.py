"""The configs of published models, as far as a conversion reads them, at full size.

Sources: the `config.json` files as quoted by MindSpeed-MM (`examples/internvl2`, `internvl2.5`, `qwen2vl`),
PaddleMIX's InternVL tests, vLLM's `nvlm_d.py`, Megatron-LM's `examples/multimodal/config.py`. Where a model's
number of parameters is published, it is here, and `verify.py` counts it again.
"""

import difflib
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedModel:
    """One model that its makers published."""

    config: Config
    """`config.json`."""
    image_token_id: int
    num_parameters: int | None = None
    """Of its safetensors files, where that is published."""


def _qwen2_vl(*sizes: int, vocab_size: int, tied: bool = False) -> Config:
    hidden_size, num_layers, num_heads, num_groups, ffn_size = sizes
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_groups,
        "intermediate_size": ffn_size,
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 32,
            "embed_dim": 1280,
            "mlp_ratio": 4,
            "num_heads": 16,
            "in_chans": 3,
            "hidden_size": hidden_size,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def _qwen2_5_vl(*sizes: int, vocab_size: int, tied: bool = False) -> Config:
    """Qwen2-VL's language body; another vision tower: RMSNorm, gated MLP, attention in windows."""
    config = _qwen2_vl(*sizes, vocab_size=vocab_size, tied=tied)
    vision = {
        "model_type": "qwen2_5_vl",
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": config["hidden_size"],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    names = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    return config | names | {"vision_config": vision, "max_position_embeddings": 128000}


def _body(architecture: str, *sizes: int, vocab_size: int, eps: float, rope_theta: float = 1e6) -> Config:
    hidden_size, num_layers, num_heads, num_groups, ffn_size = sizes
    return {
        "architectures": [architecture],
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_groups,
        "intermediate_size": ffn_size,
        "vocab_size": vocab_size,
        "rms_norm_eps": eps,
        "rope_theta": rope_theta,
        "max_position_embeddings": 32768,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def _qwen2(*sizes: int, vocab_size: int = 151674) -> Config:
    return _body("Qwen2ForCausalLM", *sizes, vocab_size=vocab_size, eps=1e-6) | {"model_type": "qwen2"}


def _internlm2(*sizes: int) -> Config:
    scaling = {"model_type": "internlm2", "bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    return _body("InternLM2ForCausalLM", *sizes, vocab_size=92553, eps=1e-5) | scaling


def _llama3(*sizes: int) -> Config:
    body = _body("LlamaForCausalLM", *sizes, vocab_size=128265, eps=1e-5, rope_theta=500000.0)
    return body | {"model_type": "llama", "max_position_embeddings": 8192}


INTERNVIT_300M = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
}
INTERNVIT_6B = {
    "hidden_size": 3200,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "intermediate_size": 12800,
    "qkv_bias": False,
    "qk_normalization": True,
    "norm_type": "rms_norm",
}


def _internvl(body: Config, vision: Config, *, template: str = "internvl2_5") -> Config:
    shared = {"patch_size": 14, "image_size": 448, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": template,
        "force_image_size": 448,
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "ps_version": "v2",
        "select_layer": -1,
        "torch_dtype": "bfloat16",
        "llm_config": body,
        "vision_config": {"architectures": ["InternVisionModel"], **vision, **shared},
    }


def _nvlm_d(body: Config) -> Config:
    """Its body says `llama` and is Qwen2; its tower's files have seven heads more than its config."""
    config = _internvl(body | {"model_type": "llama", "attention_bias": True}, INTERNVIT_6B)
    del config["template"]
    return config | {"architectures": ["NVLM_D_Model"], "model_type": "NVLM_D", "max_dynamic_patch": 6}


IMG_CONTEXT_QWEN2, IMG_CONTEXT_INTERNLM2, IMG_CONTEXT_LLAMA3 = 151667, 92546, 128258
IMAGE_PAD, VISION_PAD = 151655, 151654

PUBLISHED_MODELS: dict[str, PublishedModel] = {
    "Qwen2-VL-2B": PublishedModel(
        config=_qwen2_vl(1536, 28, 12, 2, 8960, vocab_size=151936, tied=True),
        image_token_id=IMAGE_PAD,
        num_parameters=2_208_985_600,
    ),
    "Qwen2-VL-7B": PublishedModel(
        config=_qwen2_vl(3584, 28, 28, 4, 18944, vocab_size=152064),
        image_token_id=IMAGE_PAD,
        num_parameters=8_291_375_616,
    ),
    "Qwen2-VL-72B": PublishedModel(
        config=_qwen2_vl(8192, 80, 64, 8, 29568, vocab_size=152064),
        image_token_id=IMAGE_PAD,
        num_parameters=73_405_560_320,
    ),
    "InternVL2.5-1B": PublishedModel(
        config=_internvl(_qwen2(896, 24, 14, 2, 4864), INTERNVIT_300M),
        image_token_id=IMG_CONTEXT_QWEN2,
        num_parameters=938_193_024,
    ),
    "InternVL2.5-2B": PublishedModel(
        config=_internvl(_internlm2(2048, 24, 16, 8, 8192), INTERNVIT_300M),
        image_token_id=IMG_CONTEXT_INTERNLM2,
        num_parameters=2_205_754_368,
    ),
    "InternVL2.5-4B": PublishedModel(
        config=_internvl(_qwen2(2048, 36, 16, 2, 11008), INTERNVIT_300M),
        image_token_id=IMG_CONTEXT_QWEN2,
        num_parameters=3_712_637_952,
    ),
    "InternVL2.5-8B": PublishedModel(
        config=_internvl(_internlm2(4096, 32, 32, 8, 14336), INTERNVIT_300M),
        image_token_id=IMG_CONTEXT_INTERNLM2,
        num_parameters=8_075_365_376,
    ),
    "InternVL2.5-78B": PublishedModel(
        config=_internvl(_qwen2(8192, 80, 64, 8, 29568), INTERNVIT_6B),
        image_token_id=IMG_CONTEXT_QWEN2,
        num_parameters=78_408_318_336,
    ),
    "InternVL2-76B": PublishedModel(
        config=_internvl(_llama3(8192, 80, 64, 8, 28672), INTERNVIT_6B, template="internlm2-chat"),
        image_token_id=IMG_CONTEXT_LLAMA3,
    ),
    "NVLM-D-72B": PublishedModel(
        config=_nvlm_d(_qwen2(8192, 80, 64, 8, 29568, vocab_size=152064)),
        image_token_id=VISION_PAD,
    ),
    "Qwen2.5-VL-7B": PublishedModel(
        config=_qwen2_5_vl(3584, 28, 28, 4, 18944, vocab_size=152064),
        image_token_id=IMAGE_PAD,
    ),
    "InternVL3-8B": PublishedModel(
        config=_internvl(_qwen2(3584, 28, 28, 4, 18944), INTERNVIT_300M),
        image_token_id=IMG_CONTEXT_QWEN2,
    ),
}
"""The ten models of the paper, then two newer ones in the same layouts."""


def published_model(name: str) -> PublishedModel:
    """Return a model by its name, in any case; raises `ValueError` naming the nearest."""
    by_name = {known.lower(): known for known in PUBLISHED_MODELS}
    if name.lower() not in by_name:
        (nearest,) = difflib.get_close_matches(name.lower(), by_name, n=1, cutoff=0.0)
        raise ValueError(
            f"{name} is neither a folder nor a published model; did you mean {by_name[nearest]}? "
            f"Known are {', '.join(PUBLISHED_MODELS)}"
        )
    return PUBLISHED_MODELS[by_name[name.lower()]]
