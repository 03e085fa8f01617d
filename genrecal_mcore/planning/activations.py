"""Estimates of activation memory, in bytes a token of the language body; nothing here imports torch.

Written as Korthikanti et al. (2022), "Reducing Activation Recomputation in Large Transformer Models" (arXiv
2205.05198), section 4.1: go through a layer and add up what each operation keeps for its backward pass. Their
layer has LayerNorm, dropout, GELU and an `[s, s]` matrix of attention; ours has RMSNorm in fp32, a gated MLP,
grouped heads and attention by SDPA, which keeps no `[s, s]` matrix (their section 5 with FlashAttention).
House letters, with f the MLP's channels, n and g the heads and key-value heads, d their size, and e the bytes
of an element of the computation's dtype.

What a layer saves is counted tensor by tensor; what lives for a moment, and what kernels and the allocator
add, is a rule of thumb. Hence an estimate.
"""

from typing import Literal

from genrecal_mcore.config import LoraConfig
from genrecal_mcore.planning.shapes import DecoderShape, VisionShape

FP32_SIZE = 4
NORM_TEMPORARIES = 3
"""fp32 copies of a row while a norm computes: the row, its square or its scaled self, and the gradient."""

Learns = Literal["nothing", "lora", "all"]


def saved_bytes_per_token(
    shape: DecoderShape, *, element_size: int, learns: Learns, lora: LoraConfig | None = None
) -> int:
    """Return what one decoder layer keeps for its backward pass.

    With `learns` "nothing", where only gradients pass through: each of the two norms keeps its input in fp32
    and one scale, 2 (4h + 4); attention q, k, v and its output, e (2n + 2g) d, and its log-sum-exp, 4n; the
    MLP gate, silu(gate) and up, 3ef. Where all learns, a weight's gradient needs its input: norms add 4eh,
    the last linear of the MLP ef. LoRA's own matrices see the input of seven linears, in_sum = 5h + nd + f:
    they add e in_sum and the mask of dropout, in_sum bytes, or without dropout, when linears share an input,
    e (2h + f); then 7er.
    """
    h, f = shape.hidden_size, shape.ffn_hidden_size
    n, g, d, e = shape.num_heads, shape.num_groups, shape.head_dim, element_size
    saved = 2 * FP32_SIZE * (h + 1) + e * (2 * n + 2 * g) * d + FP32_SIZE * n + 3 * e * f
    if learns == "all":
        saved += 4 * e * h + e * f
    if learns == "lora":
        assert lora is not None
        inputs = 5 * h + n * d + f
        saved += (e + 1) * inputs if lora.dropout else e * (2 * h + f)
        saved += 7 * e * lora.r
    return saved


def backward_bytes_per_token(shape: DecoderShape, *, element_size: int) -> int:
    """Return what lives for a moment while gradients pass a layer: the MLP's, e (3f + 2h), or a norm's."""
    h, f, e = shape.hidden_size, shape.ffn_hidden_size, element_size
    return 2 * e * h + max(3 * e * f, NORM_TEMPORARIES * FP32_SIZE * h)


def body_bytes_per_token(
    shape: DecoderShape, *, element_size: int, saved_by_layer: int, checkpointed_layers: int
) -> int:
    """Return what a body that learns has kept at the end of its forward pass.

    The input, eh, of each checkpointed layer, and `saved_bytes_per_token` of the others. The final norm, the
    embeddings and z add (4 + 3e) h.
    """
    h, e = shape.hidden_size, element_size
    layers = checkpointed_layers * e * h + (shape.num_layers - checkpointed_layers) * saved_by_layer
    return layers + (FP32_SIZE + 3 * e) * h


def recalibrator_bytes_per_token(
    shape: DecoderShape, *, element_size: int, teacher_hidden_size: int, learns: bool
) -> int:
    """Return what one pass through the Recalibrator keeps: its layers are never computed again.

    Beside its layers e (h_s + 3 h_t): the last one's output; the payload in the run's dtype, the last norm's
    input, the gradient that the loss computes with its value.
    """
    layer = saved_bytes_per_token(shape, element_size=element_size, learns="all" if learns else "nothing")
    return shape.num_layers * layer + element_size * (shape.hidden_size + 3 * teacher_hidden_size)


def frozen_head_bytes_per_token(*, element_size: int, teacher_hidden_size: int) -> int:
    """Return what the loss through the teacher's head takes beside its budget: the last norm's output, and
    the rows that bear labels, of both sides.
    """
    return 3 * element_size * teacher_hidden_size


def forward_bytes_per_token(shape: DecoderShape, *, element_size: int, tp: int = 1) -> int:
    """Return what lives for a moment in a layer that only runs forward, on one of tp ranks.

    Three rows, 3eh (the layer's input, the residual, the norm's output), and the widest of: the MLP's
    5ef / tp (gate and up, silu(gate), up with its offset, their product), attention's e (4n + 5g) d / tp
    (q, k, v in one, then apart, and turned by their positions), a norm in fp32. Sequence parallelism is not
    subtracted: a layer gathers the sequence before its linears.
    """
    h, e = shape.hidden_size, element_size
    attention = e * (4 * shape.num_heads + 5 * shape.num_groups) * shape.head_dim
    mlp = 5 * e * shape.ffn_hidden_size
    return 3 * e * h + max(mlp // tp, attention // tp, NORM_TEMPORARIES * FP32_SIZE * h)


def pixel_bytes_per_token(vision: VisionShape) -> int:
    """Return the `pixel_values` of one image token, in fp32 as the image processor gives them."""
    return vision.patches_per_token * vision.pixels_per_patch * FP32_SIZE


def vision_bytes_per_token(vision: VisionShape, *, element_size: int) -> int:
    """Return what a tower that only runs forward takes for one image token, beside its pixels.

    Its patches, each with its pixels in the run's dtype, the residual and the norm's output, and the wider
    of: q, k, v with six fp32 rows while positions turn q and k; the MLP's inside and three rows beside it.
    """
    h, f, e = vision.hidden_size, vision.ffn_hidden_size, element_size
    attention = 3 * e * h + (6 * FP32_SIZE * h if vision.has_rotary_positions else 0)
    mlp = 3 * e * h + (3 if vision.is_gated else 2) * e * f
    return vision.patches_per_token * (vision.pixels_per_patch * e + 2 * e * h + max(attention, mlp))


def projector_bytes_per_token(vision: VisionShape, *, element_size: int, hidden_size: int) -> int:
    """Return what a projector that learns keeps for one image token: its patches side by side, before and
    after a norm, and the inside of its MLP before and after the activation, as wide as the wider of its ends.
    """
    merged = vision.patches_per_token * vision.hidden_size
    return element_size * (2 * merged + 2 * max(merged, hidden_size))


def largest_vision_share(vision: VisionShape, *, unit_tokens: int, max_tokens: int, tp: int) -> int:
    """Return the image tokens that the fullest of tp ranks computes when every token is one of an image."""
    per_item = min(vision.tokens_per_tile or max_tokens, max_tokens)
    items = -(-unit_tokens // per_item)
    return -(-items // tp) * per_item
