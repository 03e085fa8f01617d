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

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's linears."""
        h, qkv_rows = self.hidden_size, (self.num_heads + 2 * self.num_groups) * self.head_dim
        return h * qkv_rows + self.num_heads * self.head_dim * h + 3 * h * self.ffn_hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionShape:
    """A vision tower."""

    num_layers: int
    hidden_size: int
    attention_size: int
    """Channels of all heads together."""
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
    extra_patches: int
    """Of an item, beside those of its pixels: a class token."""
    patches_per_window: int | None
    """Patches that attend to each other where attention is cut into windows."""
    num_windowed_layers: int
    projector_weights: int
    """Of the projector's linears, each used once a token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherShapes:
    """The sizes of a teacher."""

    body: DecoderShape
    vision: VisionShape
    element_size: int
    """Bytes of an element of its weights and computation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentShapes:
    """The sizes of what a student rank computes with."""

    body: DecoderShape
    vision: VisionShape
    element_size: int
    """Bytes of an element of its frozen weights and computation."""
    teacher_hidden_size: int | None
    """None where no teacher takes part."""


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
    if hasattr(config.vision_config, "spatial_merge_size"):
        return _qwen_vision_shape(config.vision_config)
    return _internvl_vision_shape(config)


def _qwen_vision_shape(vision: Any) -> VisionShape:
    """Return Qwen2-VL's shape, or Qwen2.5-VL's: RMSNorm, a gated MLP, attention in windows."""
    is_gated = hasattr(vision, "fullatt_block_indexes")
    width = vision.hidden_size if is_gated else vision.embed_dim
    output = vision.out_hidden_size if is_gated else vision.hidden_size
    merged = width * vision.spatial_merge_size**2
    return VisionShape(
        num_layers=vision.depth,
        hidden_size=width,
        attention_size=width,
        ffn_hidden_size=vision.intermediate_size if is_gated else int(width * vision.mlp_ratio),
        is_gated=is_gated,
        has_rotary_positions=True,
        patches_per_token=vision.spatial_merge_size**2,
        pixels_per_patch=COLOURS * vision.temporal_patch_size * vision.patch_size**2,
        tokens_per_tile=None,
        extra_patches=0,
        patches_per_window=(vision.window_size // vision.patch_size) ** 2 if is_gated else None,
        num_windowed_layers=vision.depth - len(vision.fullatt_block_indexes) if is_gated else 0,
        projector_weights=merged * merged + merged * output,
    )


def _internvl_vision_shape(config: Any) -> VisionShape:
    """Return InternVL's shape, or NVLM-D's: a wide projector, heads that may be padded."""
    vision, (height, width) = config.vision_config, config.vision_config.patch_size
    patches = round(config.downsample_ratio**-2)
    output = config.text_config.hidden_size
    inner = getattr(config, "projector_ffn_size", output)
    dummy_heads = getattr(vision, "num_dummy_heads", 0)
    head_dim = vision.hidden_size // vision.num_attention_heads
    return VisionShape(
        num_layers=vision.num_hidden_layers,
        hidden_size=vision.hidden_size,
        attention_size=vision.hidden_size + dummy_heads * head_dim,
        ffn_hidden_size=vision.intermediate_size,
        is_gated=False,
        has_rotary_positions=False,
        patches_per_token=patches,
        pixels_per_patch=COLOURS * height * width,
        tokens_per_tile=config.image_seq_length,
        extra_patches=1,
        patches_per_window=None,
        num_windowed_layers=0,
        projector_weights=patches * vision.hidden_size * inner + inner * output,
    )
