"""The shape of a family's record in the data room."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from genrecal_mcore.data.chat import ChatFormat

ImageTokens = tuple[tuple[int, ...], tuple[int, int] | None]
"""Image tokens of each vision item of an image, and its grid (height, width) in tokens for M-RoPE, or None.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyRecord:
    """How a family renders a conversation and its images."""

    chat: Callable[[dict[str, Any]], ChatFormat]
    """config.json as published -> chat format."""
    image_tokens: Callable[[Any, dict[str, Any], tuple[int, int]], ImageTokens]
    """(image processor, config.json, (width, height)) -> tokens, without looking at pixels."""
    position_ids: Callable[[int, Sequence[tuple[int, tuple[int, int] | None]]], torch.Tensor]
    """(length, (first token, grid) of each image) -> `[s]` or `[3, s]`."""
