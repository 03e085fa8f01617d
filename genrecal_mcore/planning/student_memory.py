"""Bytes of a student rank: the first one's, whose shards are the largest."""

from collections import defaultdict
from collections.abc import Sequence

from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.planning.counted import CountedModels, CountedTeacher
from genrecal_mcore.planning.parts import Part, RankKind
from genrecal_mcore.planning.sizes import ROOT, StudentTensor
from genrecal_mcore.planning.student_activations import student_activations

FP32_SIZE = 4
MOMENTS = 2
"""AdamW's running means of the gradient and of its square."""
GATHERED_LAYERS = 2
"""Decoder layers in whole weights at once, of those that are let go of after the forward pass: the one in
work, and the next one on its way.
"""


def student_kind(config: RunConfig, mesh: MeshSpec, models: CountedModels) -> RankKind:
    """Return what a student rank needs.

    Before it is sharded the whole module stands on each rank: `build_student_module` moves it there.
    """
    tensors, shapes = models.student.tensors, models.student.shapes
    head = models.teacher.head_bytes if models.teacher else 0
    parts = weight_parts(tensors, dp=mesh.dp)
    if head:
        parts[Part.TEACHER_HEAD] = head
    learning = [tensor for tensor in tensors if tensor.learns]
    reduces_each = config.may_accumulate and config.train.reduce_every_microbatch
    parts[Part.GRADIENTS] = gradient_bytes(learning, dp=mesh.dp, reduces_each=reduces_each)
    parts[Part.OPTIMIZER] = optimizer_bytes(learning, dp=mesh.dp)
    parts[Part.GATHERED_WEIGHTS] = gathered_bytes(
        tensors,
        dp=mesh.dp,
        element_size=shapes.element_size,
        reshards=config.train.reshard_after_forward,
    )
    parts[Part.WHOLE_GRADIENTS] = whole_gradient_bytes(
        learning,
        element_size=shapes.element_size,
        keeps_whole=config.keeps_whole_gradients,
    )
    if models.teacher is not None:
        parts[Part.TRANSFER] = received_bytes(config, models.teacher)
    parts[Part.LOSS] = config.loss.memory_budget_mib * 2**20
    parts[Part.ACTIVATIONS] = student_activations(config, shapes)
    whole = sum(tensor.numel * tensor.element_size for tensor in tensors)
    return RankKind(name="student", ranks=mesh.ranks, parts=parts, loading_bytes=whole + head)


def weight_parts(tensors: Sequence[StudentTensor], *, dp: int) -> dict[Part, int]:
    """Return the bytes of the first of dp ranks' shards: frozen ones in the run's dtype, learning in fp32."""
    parts: dict[Part, int] = {}
    for tensor in tensors:
        part = Part.STUDENT_LEARNING if tensor.learns else Part.STUDENT_FROZEN
        if tensor.is_recalibrator:
            part = Part.RECALIBRATOR
        parts[part] = parts.get(part, 0) + tensor.local_numel(dp) * tensor.element_size
    return parts


def optimizer_bytes(learning: Sequence[StudentTensor], *, dp: int) -> int:
    """Return AdamW's state: two moments of each shard in fp32, and one fp32 count of steps a tensor."""
    return sum(FP32_SIZE * (MOMENTS * tensor.local_numel(dp) + 1) for tensor in learning)


def gradient_bytes(learning: Sequence[StudentTensor], *, dp: int, reduces_each: bool) -> int:
    """Return the fp32 shards of the gradients, and where each of several microbatches adds to them, the new
    ones of the largest unit.
    """
    shards: dict[str | None, int] = defaultdict(int)
    for tensor in learning:
        shards[tensor.unit] += FP32_SIZE * tensor.local_numel(dp)
    return sum(shards.values()) + (max(shards.values(), default=0) if reduces_each else 0)


def gathered_bytes(tensors: Sequence[StudentTensor], *, dp: int, element_size: int, reshards: bool) -> int:
    """Return the whole weights at hand in the run's dtype.

    The root's, kept from forward to backward, and the larger of: the largest decoder layer of those that are
    let go of after the forward pass, twice; all that are kept, the Recalibrator's, and where nothing
    `reshards` the student's too. The buffer in which the last one came is there before its gradients are, and
    smaller. Source: `FSDPParamGroup.unshard`, `wait_for_unshard` and `reshard` of torch 2.13.
    """
    units: dict[str, int] = defaultdict(int)
    kept = {tensor.unit for tensor in tensors if tensor.is_recalibrator or not reshards}
    for tensor in tensors:
        if tensor.unit is not None:
            units[tensor.unit] += dp * tensor.local_numel(dp) * element_size
    root = units.pop(ROOT, 0)
    let_go = [size for unit, size in units.items() if unit not in kept]
    stays = [size for unit, size in units.items() if unit in kept]
    return root + max(GATHERED_LAYERS * max(let_go, default=0), sum(stays))


def whole_gradient_bytes(learning: Sequence[StudentTensor], *, element_size: int, keeps_whole: bool) -> int:
    """Return the gradients that are not sharded yet.

    A unit's gradients come in the run's dtype and are copied once into fp32 to be reduced. Where each
    microbatch is reduced, or a step has but one, that is the root's and a layer's at once, and the copy of
    either. Otherwise FSDP2 keeps every gradient whole, in fp32, until the last microbatch:
    `set_requires_gradient_sync(False)` saves communication, not memory.
    Source: `FSDPParamGroup.post_backward`, `foreach_reduce` and `FSDPParam.to_accumulated_grad_if_needed` of
    torch 2.13.
    """
    units: dict[str, int] = {ROOT: 0}
    for tensor in learning:
        assert tensor.unit is not None
        units[tensor.unit] = units.get(tensor.unit, 0) + tensor.numel
    every = sum(units.values())
    largest = max(units.values())
    if keeps_whole:
        return FP32_SIZE * every + (element_size + FP32_SIZE) * largest
    root = units.pop(ROOT)
    layer = max(units.values(), default=0)
    return max(element_size * (root + layer) + FP32_SIZE * layer, (element_size + FP32_SIZE) * root)


def received_bytes(config: RunConfig, teacher: CountedTeacher) -> int:
    """Return the payloads `[t, h_t]` of the units that are posted ahead and of the one in work.

    A unit has at most as many rows as tokens: all of them in stage 1 with the regularizer, and in
    stage 2 its answers. Those that are read ahead from a feature cache wait in host memory.
    """
    row = teacher.language.hidden_size * teacher.shapes.element_size
    ahead = 0 if config.reads_cache else config.transfer.prefetch
    return (ahead + 1) * config.most_unit_tokens * row
