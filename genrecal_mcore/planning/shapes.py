"""The sizes of a model that decide how much memory its activations take, read from config objects."""

from dataclasses import dataclass
from typing import Any

from genrecal_mcore.config import LanguageBodySpec

COLOURS = 3
"""Channels of the pixels that every image processor gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderShape:
    """A decoder of gated MLPs and grouped attention: a language body, or the Recalibrator's."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_groups: int
    head_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionShape:
    """A vision tower."""

    hidden_size: int
    ffn_hidden_size: int
    is_gated: bool
    """Whether its MLP multiplies two projections."""
    has_rotary_positions: bool
    """Whether q and k are turned by their positions, which is done in fp32."""
    patches_per_token: int
    """Patches that one image token of the language body stands for."""
    pixels_per_patch: int
    """Numbers of `pixel_values` for one patch."""
    tokens_per_tile: int | None
    """Image tokens of a tile, the smallest item that a rank computes; None where an image is one item."""


def shape_of_spec(spec: LanguageBodySpec) -> DecoderShape:
    """Return the shape of a teacher's language body."""
    return DecoderShape(
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        ffn_hidden_size=spec.ffn_hidden_size,
        num_heads=spec.num_attention_heads,
        num_groups=spec.num_query_groups,
        head_dim=spec.head_dim,
    )


def shape_of_text_config(text: Any) -> DecoderShape:
    """Return the shape of a language body from its transformers config."""
    return DecoderShape(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        ffn_hidden_size=text.intermediate_size,
        num_heads=text.num_attention_heads,
        num_groups=text.num_key_value_heads or text.num_attention_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    )


def vision_shape(config: Any) -> VisionShape:
    """Return the shape of a model's vision tower from its transformers config, of any family."""
    vision = config.vision_config
    if hasattr(vision, "spatial_merge_size"):  # Qwen2-VL and Qwen2.5-VL
        is_gated = hasattr(vision, "fullatt_block_indexes")
        width = vision.hidden_size if is_gated else vision.embed_dim
        return VisionShape(
            hidden_size=width,
            ffn_hidden_size=vision.intermediate_size if is_gated else int(width * vision.mlp_ratio),
            is_gated=is_gated,
            has_rotary_positions=True,
            patches_per_token=vision.spatial_merge_size**2,
            pixels_per_patch=COLOURS * vision.temporal_patch_size * vision.patch_size**2,
            tokens_per_tile=None,
        )
    height, width = vision.patch_size
    return VisionShape(
        hidden_size=vision.hidden_size,
        ffn_hidden_size=vision.intermediate_size,
        is_gated=False,
        has_rotary_positions=False,
        patches_per_token=round(config.downsample_ratio**-2),
        pixels_per_patch=COLOURS * height * width,
        tokens_per_tile=config.image_seq_length,
    )
