"""Tiny random checkpoints of the true classes, from the published configs with small sizes."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from checkpoint_tools.verification.original import InternVLChat
from genrecal_mcore.config import family_of_hf_config
from genrecal_mcore.layouts.checkpoint import IMAGE_TOKENS
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS, PublishedModel
from genrecal_mcore.native import build_model

Config = dict[str, Any]

# All different where they may be, so that no transposed or swapped tensor fits; heads and channels divide by
# 2 for tensor parallelism, layers for the pipeline. The vocabulary is odd, as InternVL2-76B's is.
TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 88,
    "vocab_size": 97,
    "max_position_embeddings": 512,
}
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 44,
    "image_size": 24,
    "patch_size": 6,
}
QWEN2_VISION = {"depth": 2, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 3, "patch_size": 4}
QWEN2_5_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 36,
    "patch_size": 4,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
TOKEN_IDS = {"bos_token_id": 90, "eos_token_id": 91, "pad_token_id": 90}
IMAGE_TOKEN_ID = 92
QWEN2_TOKEN_IDS = {
    "image_token_id": IMAGE_TOKEN_ID,
    "video_token_id": 93,
    "vision_start_token_id": 94,
    "vision_end_token_id": 95,
}


def tiny_model(name: str) -> PublishedModel:
    """Return a published model with small sizes; everything that is no size stays as published."""
    published = PUBLISHED_MODELS[name].config
    config = copy.deepcopy(published)
    if config["model_type"].startswith("qwen2"):
        config |= TEXT | TOKEN_IDS | QWEN2_TOKEN_IDS
        config["rope_scaling"] |= {"mrope_section": [3, 2, 1]}  # head dimension 12, halved
        is_newer = config["model_type"] == "qwen2_5_vl"
        config["vision_config"] |= QWEN2_5_VISION if is_newer else QWEN2_VISION
        config["vision_config"]["out_hidden_size" if is_newer else "hidden_size"] = TEXT["hidden_size"]
    else:
        config |= {"force_image_size": VISION["image_size"]}
        config["llm_config"] |= TEXT | TOKEN_IDS
        config["vision_config"] |= VISION
    return PublishedModel(config=config, image_token_id=IMAGE_TOKEN_ID)


def original_model(model: PublishedModel) -> nn.Module:
    """Build the module whose state dict has the published names; for Qwen2-VL that is transformers' class."""
    if model.config["model_type"] in IMAGE_TOKENS:
        return InternVLChat(model.config, image_token_id=model.image_token_id)
    return build_model(model.config, family_of_hf_config(model.config, where="config.json")).float()


def randomize(model: nn.Module, *, seed: int, keeps_dummy_heads: bool = False) -> nn.Module:
    """Fill every parameter: matrices N(0, 0.2), scales N(1, 0.1), biases N(0, 0.1), all seen in the output.

    NVLM-D's dummy heads become zero, as they must be to be left out, unless `keeps_dummy_heads`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.dim() == 1 and not name.endswith("bias")
            parameter.copy_(1.0 + 0.1 * noise if is_scale else noise * (0.2 if parameter.dim() > 1 else 0.1))
        if not keeps_dummy_heads and isinstance(model, InternVLChat):
            for tensor in _dummy_parts(model):
                tensor.zero_()
    return model.eval()


def _dummy_parts(model: InternVLChat) -> Iterator[torch.Tensor]:
    for layer in model.vision_model.encoder.layers:
        attention = layer.attn
        wide, width = attention.proj.in_features, attention.proj.out_features
        if wide > width:
            for part in attention.qkv.weight.chunk(3):
                yield part[width:]
            yield attention.proj.weight[:, width:]
            yield attention.q_norm.weight[width:]
            yield attention.k_norm.weight[width:]


def write_published(folder: Path, model: PublishedModel, original: nn.Module) -> Path:
    """Write a folder as the makers do, without a tokenizer but with the image token's id. Return it."""
    folder.mkdir(parents=True)
    if model.config["model_type"] in IMAGE_TOKENS:
        tensors = {name: tensor.contiguous() for name, tensor in original.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        added = {IMAGE_TOKENS[model.config["model_type"]]: model.image_token_id}
        (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    else:
        original.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(model.config, indent=2) + "\n", encoding="utf-8")
    return folder
