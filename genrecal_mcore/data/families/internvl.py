"""InternVL in its native layout: dynamic tiling with a thumbnail, a fixed number of tokens a tile, plain
positions.

Source: `processing_internvl.py` and `convert_internvl_weights_to_hf.py` of transformers.
"""

from collections.abc import Sequence
from typing import Any

import torch

from genrecal_mcore.data.chat import ChatFormat
from genrecal_mcore.data.families.record import FamilyRecord, ImageTokens


def image_tokens(processor: Any, hf_config: dict[str, Any], size: tuple[int, int]) -> ImageTokens:
    """Return `image_seq_length` tokens for each tile that an image of `size` is cut into."""
    width, height = size
    num_tiles = processor.get_number_of_image_patches(height, width, {})
    return (int(hf_config["image_seq_length"]),) * num_tiles, None


def position_ids(length: int, images: Sequence[tuple[int, tuple[int, int] | None]]) -> torch.Tensor:
    """Return 0..s-1: image tokens count like any other."""
    del images
    return torch.arange(length)


RECORD = FamilyRecord(
    chat=ChatFormat(
        system=None, image_start="<img>", image_end="</img>", image_token="<IMG_CONTEXT>", after_image="\n"
    ),
    image_tokens=image_tokens,
    position_ids=position_ids,
)
