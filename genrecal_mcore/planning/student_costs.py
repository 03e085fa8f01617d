"""What a unit of work costs a student rank, forward and backward, by stage; and what a step adds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from genrecal_mcore.config import RunConfig
from genrecal_mcore.planning.costs import Cost, Op, times, total
from genrecal_mcore.planning.counted import CountedModels
from genrecal_mcore.planning.decoder_costs import (
    ATTENTION_BACKWARD,
    ELEMENTWISE_BACKWARD,
    adapter_bytes_per_token,
    adapter_flops,
    attention_flops,
    elementwise_bytes_per_token,
    linear_flops,
    projector_flops,
    tower_attention_flops,
    tower_bytes,
    tower_linear_flops,
)
from genrecal_mcore.planning.shapes import DecoderShape, StudentShapes
from genrecal_mcore.planning.sizes import ROOT, StudentTensor, layer_unit
from genrecal_mcore.planning.teacher_costs import payload_rows_of
from genrecal_mcore.planning.workload import PackedSize, UnitSize
from genrecal_mcore.training.stages import Stage, stage_of

FP32_SIZE = 4
TEACHER_HEAD_PRODUCTS = 3
"""Logits of both sides and the gradient of one; the head itself has none."""
TEACHER_HEAD_PASSES, STUDENT_HEAD_PASSES = 24, 8
"""Reads and writes of a logit in fp32 between the products."""
ADAMW_BYTES = 32
"""Of a learning number: weight, gradient and both moments read, all but the gradient written; and the
gradient read for its norm.
"""
ACCUMULATION_BYTES = 10
"""Of a learning number a microbatch: a 16-bit gradient added to a whole one in fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentSide:
    """What a student rank's costs depend on, beside its units."""

    stage: Stage
    shapes: StudentShapes
    tensors: Sequence[StudentTensor]
    vocab_size: int
    teacher_vocab_size: int
    """0 where no teacher takes part."""
    recalibrator_layers: int
    own_answers: bool
    """Whether the student's rows of answers enter the Recalibrator."""
    lora_r: int
    checkpointed_layers: int
    """Decoder layers that are computed again in the backward pass."""
    accumulated_numel: int
    """Numbers of the gradients that a microbatch adds up whole, where a step has several."""
    reshards: bool
    """Whether layers let go of their weights after the forward pass."""
    reduces_each: bool
    """Whether gradients are reduced with every microbatch."""

    @property
    def learns(self) -> bool:
        """Whether anything of the student does."""
        return self.stage.student_learns != "nothing"


def student_side(config: RunConfig, models: CountedModels) -> StudentSide:
    """Return the student side of a run."""
    student = models.student
    learning_numel = sum(tensor.numel for tensor in student.tensors if tensor.learns)
    return StudentSide(
        stage=stage_of(config),
        shapes=student.shapes,
        tensors=student.tensors,
        vocab_size=student.vocab_size,
        teacher_vocab_size=models.teacher.language.vocab_size if models.teacher else 0,
        recalibrator_layers=config.recalibrator.num_layers,
        own_answers=config.recalibrator.student_answers,
        lora_r=config.student.lora.r if config.student.lora else 0,
        checkpointed_layers=config.train.num_checkpointed(student.shapes.body.num_layers),
        accumulated_numel=learning_numel if config.keeps_whole_gradients else 0,
        reshards=config.train.reshard_after_forward,
        reduces_each=config.train.reduce_every_microbatch,
    )


def unit_cost(side: StudentSide, unit: UnitSize) -> Cost:
    """Return what one rank computes for a unit, forward and backward, FSDP's traffic and loading left out."""
    parts = [vision_cost(side, unit.student), body_cost(side, unit.student), {Op.STUDENT_UNIT_CALLS: 1}]
    paths = []
    if side.stage.student_path:
        paths.append(student_path(side, unit))
    if side.stage.teacher_path:
        paths.append(unit.teacher)
    payload = payload_rows_of(unit.teacher, with_questions=side.stage.with_questions)
    for path in paths:
        parts += [recalibrator_cost(side, path, payload_rows=payload), teacher_head_cost(side, path)]
    if side.stage.comparison is not None:
        parts.append(two_heads_cost(side, unit.student))
    elif side.stage.student_ce:
        parts.append(student_head_cost(side, unit.student))
    parts.append({Op.ELEMENTWISE: ACCUMULATION_BYTES * side.accumulated_numel})
    return total(*parts)


def student_path(side: StudentSide, unit: UnitSize) -> PackedSize:
    """Return the size of the student path through the Recalibrator."""
    return unit.recalibrated_with_own if side.own_answers else unit.recalibrated


def vision_cost(side: StudentSide, size: PackedSize) -> Cost:
    """Return the cost of the tower, which only runs forward, and of the projector, which may learn."""
    vision, items = side.shapes.vision, size.features_per_item
    passes = 3 if side.stage.student_learns == "all_but_vision_encoder" else 1
    element_size = side.shapes.element_size
    return {
        Op.STUDENT_VISION: sum(tower_linear_flops(vision, item) for item in items)
        + passes * projector_flops(vision, sum(items)),
        Op.STUDENT_ATTENTION: sum(tower_attention_flops(vision, item) for item in items),
        Op.ELEMENTWISE: sum(tower_bytes(vision, item, element_size=element_size) for item in items),
    }


def body_cost(side: StudentSide, size: PackedSize) -> Cost:
    """Return the cost of the language body: forward, again where it is checkpointed, and backward."""
    shape = side.shapes.body
    forward = layer_forward_cost(side, size)
    if not side.learns:
        return times(forward, shape.num_layers)
    weights = linear_flops(shape, size.tokens)
    backward = {
        Op.STUDENT_LINEARS: 2 * forward[Op.STUDENT_LINEARS],
        Op.STUDENT_ATTENTION: ATTENTION_BACKWARD * forward[Op.STUDENT_ATTENTION],
        Op.ELEMENTWISE: ELEMENTWISE_BACKWARD * forward[Op.ELEMENTWISE],
    }
    if side.stage.student_learns == "lora":  # frozen weights have no gradient
        backward[Op.STUDENT_LINEARS] -= weights
    return total(
        times(forward, shape.num_layers),
        times(recomputed_cost(side, size), side.checkpointed_layers),
        times(backward, shape.num_layers),
        {Op.STUDENT_LINEARS: -unasked_flops(side, size)},
    )


def unasked_flops(side: StudentSide, size: PackedSize) -> float:
    """Return what the first layer's q, k and v save with LoRA: nothing before them asks for a gradient."""
    if side.stage.student_learns != "lora":
        return 0.0
    shape = side.shapes.body
    rows = (shape.num_heads + 2 * shape.num_groups) * shape.head_dim
    return 2.0 * size.tokens * shape.hidden_size * (rows + 3 * side.lora_r)


def layer_forward_cost(side: StudentSide, size: PackedSize) -> dict[Op, float]:
    """Return the cost of one decoder layer, forward."""
    shape, element_size = side.shapes.body, side.shapes.element_size
    linears = linear_flops(shape, size.tokens)
    moved = elementwise_bytes_per_token(shape, element_size=element_size)
    if side.stage.student_learns == "lora":
        linears += adapter_flops(shape, size.tokens, r=side.lora_r)
        moved += adapter_bytes_per_token(shape, element_size=element_size)
    return {
        Op.STUDENT_LINEARS: linears,
        Op.STUDENT_ATTENTION: attention_flops(shape, size),
        Op.ELEMENTWISE: moved * size.tokens,
    }


def recomputed_cost(side: StudentSide, size: PackedSize) -> Cost:
    """Return what is computed again of a checkpointed layer: up to the last tensor that backward needs.

    torch stops there (`set_checkpoint_early_stop`): before the last linear, or with LoRA before the last
    adapter's second matrix.
    """
    shape, cost = side.shapes.body, layer_forward_cost(side, size)
    h, f = shape.hidden_size, shape.ffn_hidden_size
    last = side.lora_r * h if side.stage.student_learns == "lora" else h * f
    return cost | {Op.STUDENT_LINEARS: cost[Op.STUDENT_LINEARS] - 2.0 * size.tokens * last}


def recalibrator_cost(side: StudentSide, path: PackedSize, *, payload_rows: int) -> Cost:
    """Return the cost of one path through the Recalibrator, never checkpointed.

    Rec-proj-pre reads every payload row, the rest every row of the path. Frozen, only gradients pass through.
    """
    assert side.shapes.teacher_hidden_size is not None
    shape: DecoderShape = replace(side.shapes.body, num_layers=side.recalibrator_layers)
    projection = 2.0 * shape.hidden_size * side.shapes.teacher_hidden_size
    linears = shape.num_layers * linear_flops(shape, path.tokens) + projection * path.tokens
    attention = shape.num_layers * attention_flops(shape, path)
    learns = side.stage.recalibrator_learns
    pre = projection * payload_rows * (2 if learns else 1)
    moved = shape.num_layers * elementwise_bytes_per_token(shape, element_size=side.shapes.element_size)
    return {
        Op.RECALIBRATOR: pre + linears * (3 if learns else 2) + attention * (1 + ATTENTION_BACKWARD),
        Op.ELEMENTWISE: moved * path.tokens * (1 + ELEMENTWISE_BACKWARD),
    }


def teacher_head_cost(side: StudentSide, path: PackedSize) -> Cost:
    """Return the cost of CE and KL through the frozen head, of the rows that bear labels."""
    assert side.shapes.teacher_hidden_size is not None
    logits = float(path.answer_tokens * side.teacher_vocab_size)
    return {
        Op.TEACHER_HEAD: TEACHER_HEAD_PRODUCTS * 2.0 * logits * side.shapes.teacher_hidden_size,
        Op.ELEMENTWISE: TEACHER_HEAD_PASSES * FP32_SIZE * logits,
    }


def student_head_cost(side: StudentSide, size: PackedSize) -> Cost:
    """Return the cost of the student's own loss; its head learns in stage 3 only."""
    logits = float(size.answer_tokens * side.vocab_size)
    products = 3 if side.stage.student_learns == "all_but_vision_encoder" else 2
    return {
        Op.STUDENT_HEAD: products * 2.0 * logits * side.shapes.body.hidden_size,
        Op.ELEMENTWISE: STUDENT_HEAD_PASSES * FP32_SIZE * logits,
    }


def two_heads_cost(side: StudentSide, size: PackedSize) -> Cost:
    """Return the cost of comparing both models' own distributions, and of the student's CE on the way."""
    assert side.stage.comparison is not None and side.shapes.teacher_hidden_size is not None
    rows = size.tokens if side.stage.comparison.positions == "all" else size.answer_tokens
    logits = float(rows * min(side.vocab_size, side.teacher_vocab_size))
    return {
        Op.STUDENT_HEAD: 2 * 2.0 * logits * side.shapes.body.hidden_size,
        Op.TEACHER_HEAD: 2.0 * logits * side.shapes.teacher_hidden_size,
        Op.ELEMENTWISE: TEACHER_HEAD_PASSES * FP32_SIZE * logits,
    }


def gathered_cost(side: StudentSide, *, dp: int) -> Cost:
    """Return what a rank receives of weights for a unit."""
    if dp == 1:
        return {}
    passes = {tensor.unit: gathers_of(side, tensor) for tensor in side.tensors}
    whole = side.shapes.element_size * sum(
        passes[tensor.unit] * dp * tensor.local_numel(dp) for tensor in side.tensors
    )
    return {Op.GATHERS: (dp - 1) / dp * whole, Op.COLLECTIVE_CALLS: sum(passes.values())}


def gathers_of(side: StudentSide, tensor: StudentTensor) -> int:
    """Return how often a unit gathers a tensor.

    Never one that is whole on every rank; the root's once; the Recalibrator's once a path, as the backward
    pass of one lets go of what the other's needs; the student's once where nothing reshards, otherwise in
    each pass. Where the student does not learn, FSDP gathers its last layer ahead in the backward pass all
    the same: it comes next in its order.
    """
    if tensor.unit is None:
        return 0
    if tensor.is_recalibrator and tensor.unit != ROOT:
        return int(side.stage.student_path) + int(side.stage.teacher_path)
    if tensor.unit == ROOT or not side.reshards:
        return 1
    is_last = tensor.unit == layer_unit(side.shapes.body.num_layers - 1)
    return 2 if side.learns or is_last else 1


def reduction_cost(side: StudentSide, *, dp: int) -> Cost:
    """Return what it costs to reduce all gradients in fp32, unit by unit."""
    if dp == 1:
        return {}
    learning = [tensor for tensor in side.tensors if tensor.learns]
    whole = FP32_SIZE * sum(dp * tensor.local_numel(dp) for tensor in learning)
    calls = len({tensor.unit for tensor in learning})
    return {Op.REDUCTION: (dp - 1) / dp * whole, Op.COLLECTIVE_CALLS: calls}


def unit_traffic(side: StudentSide, *, dp: int) -> Cost:
    """Return what FSDP moves with every unit: weights, and gradients where each microbatch is reduced."""
    gathered = gathered_cost(side, dp=dp)
    return total(gathered, reduction_cost(side, dp=dp)) if side.reduces_each else gathered


def step_cost(side: StudentSide, *, dp: int) -> Cost:
    """Return what a rank does once a step: reduces gradients, if not before, and updates its shards.

    Two more collectives make the gradient's norm and the step's metrics.
    """
    learning = [tensor for tensor in side.tensors if tensor.learns]
    update: Cost = {Op.OPTIMIZER: float(ADAMW_BYTES * sum(tensor.local_numel(dp) for tensor in learning))}
    if dp == 1:
        return update
    reduction = {} if side.reduces_each else reduction_cost(side, dp=dp)
    return total(update, reduction, {Op.COLLECTIVE_CALLS: 2})
