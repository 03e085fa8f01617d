"""Vision tower and projector of a Hugging Face model, with the language model left out.

The modules are transformers' own: what they compute on a teacher rank is what they compute in the model that
they came from.
"""

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.internvl.modeling_internvl import InternVLModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from genrecal_mcore.config import Family

_MODEL_OF_FAMILY = {Family.INTERNVL: InternVLModel, Family.QWEN2_VL: Qwen2VLModel}


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
    """Build tower and projector from `folder` (`config.json`, `model.safetensors`), frozen, without language
    model.

    Raises `ValueError` listing the keys that the file lacks or has too many.
    """
    model = _build(folder, family)
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{folder / 'model.safetensors'} does not fit its config.json: missing {missing}, "
            f"unexpected {unexpected}"
        )
    return model.to(dtype).requires_grad_(False).eval()


def vision_shapes(folder: Path, family: Family) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of each tensor of tower and projector that `folder/config.json` describes.

    Names are those of `load_vision_model`'s file; nothing is allocated.
    """
    with torch.device("meta"):
        model = _build(folder, family)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _build(folder: Path, family: Family) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = _MODEL_OF_FAMILY[family](_without_language(config))
    model.language_model = torch.nn.Identity()
    return model


def _without_language(config: PretrainedConfig) -> PretrainedConfig:
    # The class builds its language model too: make that one empty, whatever the model's size.
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers, text.layer_types, text.vocab_size, text.pad_token_id = 0, [], 1, None
    config._attn_implementation = "sdpa"
    return config
