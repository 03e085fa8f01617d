"""Vision tower and projector of a Hugging Face model, with the language model left out.

The modules are transformers' own: what they compute on a teacher rank is what they compute in the model that
they came from.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from genrecal_mcore.config import Family
from genrecal_mcore.native import build_model


def image_features(
    model: PreTrainedModel, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor | None
) -> torch.Tensor:
    """Return features `[n, h]` of all tiles or images, in order, from a Hugging Face `*Model`.

    `pixel_values`: `[num_tiles, 3, height, width]`, or `[num_patches, d]` with `image_grid_thw` `[num_images,
    3]`.
    """
    if image_grid_thw is None:
        features = model.get_image_features(
            pixel_values=pixel_values,
            vision_feature_layer=model.config.vision_feature_layer,
            vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        ).pooler_output
        return features.flatten(0, 1)  # [tiles, tokens, h] -> [n, h]
    features = model.get_image_features(pixel_values=pixel_values, image_grid_thw=image_grid_thw)
    return torch.cat(tuple(features.pooler_output))


def scatter_features(
    embeddings: torch.Tensor, input_ids: torch.Tensor, features: torch.Tensor, image_token_id: int
) -> torch.Tensor:
    """Put image features `[n, h]` at the image tokens of embeddings `[b, s, h]`, ids `[b, s]`, in reading
    order.

    Raises `ValueError` when the number of image tokens is not n.
    """
    mask = input_ids == image_token_id
    # The count reads ids that came from the CPU this step; a wrong one must never train.
    if int(mask.sum()) != features.shape[0]:
        raise ValueError(
            f"the microbatch has {int(mask.sum())} image tokens but the vision tower gave "
            f"{features.shape[0]} features; the image processor's settings contradict the model's config.json"
        )
    return embeddings.masked_scatter(mask.unsqueeze(-1), features.to(embeddings.dtype))


def load_vision_model(folder: Path, family: Family, *, dtype: torch.dtype) -> PreTrainedModel:
    """Build tower and projector from `folder` (native `config.json`, `model.safetensors`), frozen, without
    language model.

    Raises `ValueError` listing the keys that the file lacks or has too many.
    """
    native = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = _without_language(native, family)
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{folder / 'model.safetensors'} does not fit its config.json: missing {missing}, "
            f"unexpected {unexpected}"
        )
    return model.to(dtype).requires_grad_(False).eval()


def _without_language(native: Mapping[str, Any], family: Family) -> PreTrainedModel:
    """Return the `*Model` of a family whose language model is empty, whatever the model's size."""
    changed = copy.deepcopy(dict(native))
    # Nested, or flat as older Qwen2-VL files have it.
    text: dict[str, Any] = changed.get("text_config") or changed
    text |= {"num_hidden_layers": 0, "layer_types": [], "vocab_size": 1}
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    model = build_model(changed, family).model
    model.language_model = torch.nn.Identity()
    return model
