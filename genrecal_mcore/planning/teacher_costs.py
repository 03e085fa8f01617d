"""What a unit of work costs one rank of a teacher's pipeline stage, and what it sends on."""

from genrecal_mcore.models.teacher.stage import item_bounds
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.planning.costs import Cost, Op, flops_of, times, total
from genrecal_mcore.planning.decoder_costs import (
    attention_flops,
    elementwise_bytes_per_token,
    linear_flops,
    projector_flops,
    tower_attention_flops,
    tower_bytes,
    tower_linear_flops,
)
from genrecal_mcore.planning.shapes import TeacherShapes
from genrecal_mcore.planning.workload import PackedSize

COLLECTIVES_PER_LAYER = 4
"""Of `[t, h]` with sequence parallelism: gathered before and scattered after attention and MLP. Without it,
two all-reduces, each of which moves as much as two of them.
"""


def stage_cost(shapes: TeacherShapes, mesh: MeshSpec, size: PackedSize, *, stage: int) -> Cost:
    """Return what the fullest tp rank of a stage computes and exchanges with its tp group for one unit."""
    num_layers = len(mesh.layers_of_stage(stage, num_layers=shapes.body.num_layers))
    parts = [layers_cost(shapes, mesh, size, num_layers=num_layers)]
    if stage == 0:
        parts.append(images_cost(shapes, mesh, size))
        # The vocabulary is cut over tp: an all-reduce of `[t, h]` makes the embeddings whole.
        parts.append(exchange_cost(mesh.tp, 2 * exchanged_bytes(shapes, mesh.tp, size.tokens), calls=1))
    return total(*parts)


def layers_cost(shapes: TeacherShapes, mesh: MeshSpec, size: PackedSize, *, num_layers: int) -> Cost:
    """Return the cost of decoder layers on one tp rank."""
    body, tp = shapes.body, mesh.tp
    moved = elementwise_bytes_per_token(
        body, element_size=shapes.element_size, tp=tp, sequence_parallel=mesh.sequence_parallel
    )
    layer = {
        Op.TEACHER_LINEARS: linear_flops(body, size.tokens) / tp,
        Op.TEACHER_ATTENTION: attention_flops(body, size) / tp,
        Op.ELEMENTWISE: moved * size.tokens,
        Op.TEACHER_LAYER_CALLS: 1,
    }
    exchanged = COLLECTIVES_PER_LAYER * exchanged_bytes(shapes, tp, size.tokens)
    calls = COLLECTIVES_PER_LAYER if mesh.sequence_parallel else COLLECTIVES_PER_LAYER // 2
    return times(total(layer, exchange_cost(tp, exchanged, calls=calls)), num_layers)


def images_cost(shapes: TeacherShapes, mesh: MeshSpec, size: PackedSize) -> Cost:
    """Return the cost of the vision tower on the rank with most to do; features are then gathered over tp,
    every rank's as long as the longest.
    """
    items = size.features_per_item
    shares = [items[first:last] for first, last in item_bounds(len(items), mesh.tp)]
    costs = [_share_cost(shapes, share) for share in shares]
    fullest = max(costs, key=flops_of)
    padded = mesh.tp * max(sum(share) for share in shares)
    return total(fullest, exchange_cost(mesh.tp, exchanged_bytes(shapes, mesh.tp, padded), calls=1))


def _share_cost(shapes: TeacherShapes, items: tuple[int, ...]) -> Cost:
    vision, size = shapes.vision, shapes.element_size
    return {
        Op.TEACHER_VISION: sum(tower_linear_flops(vision, item) for item in items)
        + projector_flops(vision, sum(items)),
        Op.TEACHER_ATTENTION: sum(tower_attention_flops(vision, item) for item in items),
        Op.ELEMENTWISE: sum(tower_bytes(vision, item, element_size=size) for item in items),
    }


def exchange_cost(tp: int, num_bytes: float, *, calls: int) -> Cost:
    """Return the cost of collectives over tp ranks, each of which sends `num_bytes` in so many calls."""
    return {Op.TENSOR_PARALLEL: num_bytes, Op.COLLECTIVE_CALLS: calls} if tp > 1 else {}


def exchanged_bytes(shapes: TeacherShapes, tp: int, tokens: int) -> float:
    """Return what a rank sends while `[t, h]` is gathered or scattered over tp ranks."""
    return (tp - 1) / tp * tokens * shapes.body.hidden_size * shapes.element_size


def hidden_states_bytes(shapes: TeacherShapes, mesh: MeshSpec, size: PackedSize) -> float:
    """Return what a tp rank sends to the next stage: its part under sequence parallelism, else all."""
    whole = size.tokens * shapes.body.hidden_size * shapes.element_size
    return whole / (mesh.tp if mesh.sequence_parallel else 1)


def payload_rows_of(size: PackedSize, *, with_questions: bool) -> int:
    """Return the rows that travel to the student (see `data.payload_rows`)."""
    return size.tokens if with_questions else size.answer_tokens + size.boundary_rows
