"""Flops and bytes of decoder layers and vision towers, forward; backward as multiples. House letters.

A product `[t, a] @ [a, b]` is 2tab flops. Attention counts only the pairs that the causal mask leaves, as
variable-length kernels compute them. Bytes of elementwise passes are a rule of thumb: each operation reads
and writes its rows once, norms work in fp32.
"""

from genrecal_mcore.planning.shapes import DecoderShape, VisionShape
from genrecal_mcore.planning.workload import PackedSize

ATTENTION_BACKWARD = 2.5
"""Backward over forward: the scores again, and four products instead of two (FlashAttention-2, Alg. 2)."""
ELEMENTWISE_BACKWARD = 2.0
NORM_BYTES = 36
"""Bytes moved for a number that an RMSNorm in fp32 reads and writes in a 16-bit dtype, pass by pass."""
ROTARY_PASSES, RESIDUAL_PASSES, GATED_PASSES = 10, 3, 5
"""Reads and writes: turning a row by its position; adding two rows; silu, and the product with up."""
DROPOUT_PASSES, ADAPTER_PASSES = 2.5, 5
"""Of an adapter's input, with its mask; of an adapter's output, scaled and added."""


def linear_flops(shape: DecoderShape, tokens: int) -> float:
    """Return the flops of one layer's linears, forward."""
    return 2.0 * shape.layer_weights * tokens


def attention_flops(shape: DecoderShape, size: PackedSize) -> float:
    """Return the flops of one layer's causal attention, forward: scores and their product with v."""
    return 4.0 * shape.num_heads * shape.head_dim * size.causal_pairs


def adapter_sizes(shape: DecoderShape) -> tuple[int, int]:
    """Return the summed inputs and the summed outputs of a layer's seven linears, which LoRA adapts."""
    h, f = shape.hidden_size, shape.ffn_hidden_size
    heads, groups = shape.num_heads * shape.head_dim, shape.num_groups * shape.head_dim
    return 5 * h + heads + f, 2 * h + heads + 2 * groups + 2 * f


def adapter_flops(shape: DecoderShape, tokens: int, *, r: int) -> float:
    """Return the flops of one layer's adapters, forward."""
    return 2.0 * r * sum(adapter_sizes(shape)) * tokens


def elementwise_bytes_per_token(
    shape: DecoderShape, *, element_size: int, tp: int = 1, sequence_parallel: bool = False
) -> float:
    """Return what one layer's norms, positions, MLP and residuals move, forward, on one of tp ranks."""
    h, f, e = shape.hidden_size, shape.ffn_hidden_size, element_size
    rows = 2 * NORM_BYTES * h + 2 * RESIDUAL_PASSES * e * h
    heads = ROTARY_PASSES * e * (shape.num_heads + shape.num_groups) * shape.head_dim
    return rows / (tp if sequence_parallel else 1) + (heads + GATED_PASSES * e * f) / tp


def adapter_bytes_per_token(shape: DecoderShape, *, element_size: int) -> float:
    """Return what one layer's adapters move beside their products, forward."""
    inputs, outputs = adapter_sizes(shape)
    return element_size * (DROPOUT_PASSES * inputs + ADAPTER_PASSES * outputs)


def item_patches(vision: VisionShape, item_tokens: int) -> int:
    """Return the positions of one tile or image in the tower."""
    return item_tokens * vision.patches_per_token + vision.extra_patches


def tower_linear_flops(vision: VisionShape, item_tokens: int) -> float:
    """Return the flops of the tower's linears for one tile or image, forward."""
    h, pixel_patches = vision.hidden_size, item_tokens * vision.patches_per_token
    mlp = (3 if vision.is_gated else 2) * h * vision.ffn_hidden_size
    layer = 4 * h * vision.attention_size + mlp
    embedding = pixel_patches * vision.pixels_per_patch * h
    return 2.0 * (embedding + vision.num_layers * layer * item_patches(vision, item_tokens))


def tower_attention_flops(vision: VisionShape, item_tokens: int) -> float:
    """Return the flops of the tower's attention for one tile or image, forward: all pairs, or a window's."""
    patches = item_patches(vision, item_tokens)
    window = min(vision.patches_per_window or patches, patches)
    full_layers = vision.num_layers - vision.num_windowed_layers
    seen = full_layers * patches + vision.num_windowed_layers * window
    return 4.0 * vision.attention_size * patches * seen


def projector_flops(vision: VisionShape, tokens: int) -> float:
    """Return the flops of the projector for image tokens, forward."""
    return 2.0 * vision.projector_weights * tokens


def tower_bytes(vision: VisionShape, item_tokens: int, *, element_size: int) -> float:
    """Return what the tower's elementwise passes move for one tile or image, forward."""
    h, f, e = vision.hidden_size, vision.ffn_hidden_size, element_size
    rows = e * (14 * h + (GATED_PASSES if vision.is_gated else 2) * f)
    if vision.has_rotary_positions:
        rows += 2 * ROTARY_PASSES * 4 * h
    return rows * item_patches(vision, item_tokens) * vision.num_layers
