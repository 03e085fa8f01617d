"""Qwen2-VL: one item an image, as many tokens as its size gives, positions in time, height and width
(M-RoPE).

Source: `processing_qwen2_vl.py` and `Qwen2VLModel.get_rope_index` of transformers.
"""

from collections.abc import Sequence
from typing import Any

import torch

from genrecal_mcore.data.chat import ChatFormat
from genrecal_mcore.data.families.record import FamilyRecord, ImageTokens
from genrecal_mcore.data.types import BrokenSample


def image_tokens(processor: Any, hf_config: dict[str, Any], size: tuple[int, int]) -> ImageTokens:
    """Return the merged patches of an image of `size` (width, height), and their grid (height, width).

    Raises `BrokenSample` for an image that is too long and thin.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    del hf_config
    width, height = size
    factor = processor.patch_size * processor.merge_size
    try:
        resized_height, resized_width = smart_resize(
            height,
            width,
            factor=factor,
            min_pixels=processor.size["shortest_edge"],
            max_pixels=processor.size["longest_edge"],
        )
    except ValueError as error:
        raise BrokenSample(f"an image of {width} x {height} pixels cannot be resized: {error}") from None
    grid = (resized_height // factor, resized_width // factor)
    return (grid[0] * grid[1],), grid


def position_ids(length: int, images: Sequence[tuple[int, tuple[int, int] | None]]) -> torch.Tensor:
    """Return `[3, s]`: text counts on in all three rows, an image counts its rows and columns from there.

    After an image, text goes on at one past the largest position used.
    """
    positions = torch.empty(3, length, dtype=torch.int64)
    next_position = done = 0
    for first, grid in images:
        assert grid is not None
        height, width = grid
        positions[:, done:first] = torch.arange(next_position, next_position + first - done)
        next_position += first - done
        done = first + height * width
        positions[0, first:done] = next_position
        positions[1, first:done] = next_position + torch.arange(height).repeat_interleave(width)
        positions[2, first:done] = next_position + torch.arange(width).repeat(height)
        next_position += max(height, width)
    positions[:, done:] = torch.arange(next_position, next_position + length - done)
    return positions


CHAT = ChatFormat(
    system="You are a helpful assistant.",
    image_start="<|vision_start|>",
    image_end="<|vision_end|>",
    image_token="<|image_pad|>",
    after_image="",
)

RECORD = FamilyRecord(
    chat=lambda _: CHAT,
    image_tokens=image_tokens,
    position_ids=position_ids,
)
