"""Bytes of the teacher's ranks, by pipeline stage."""

from itertools import groupby

from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.planning.activations import (
    forward_bytes_per_token,
    largest_vision_share,
    pixel_bytes_per_token,
    vision_bytes_per_token,
)
from genrecal_mcore.planning.counted import CountedTeacher
from genrecal_mcore.planning.parts import Part, RankKind
from genrecal_mcore.planning.sizes import teacher_body_parameters
from genrecal_mcore.training.pipeline import MAX_SENDS_IN_FLIGHT, RECEIVES_AHEAD

EMBEDDING_COPIES = 5
"""Matrices `[1, t, h]` alive when features are put at their tokens: features, padded and gathered over tp,
and embeddings before and after.
"""


def teacher_kinds(config: RunConfig, mesh: MeshSpec, teacher: CountedTeacher) -> tuple[RankKind, ...]:
    """Return the stages in order, neighbours that need the same memory as one kind."""
    parts_of = [stage_parts(config, mesh, teacher, stage=stage) for stage in range(mesh.pp)]
    return tuple(
        _kind_of_stages(mesh, parts, list(stages))
        for parts, stages in groupby(range(mesh.pp), key=parts_of.__getitem__)
    )


def _kind_of_stages(mesh: MeshSpec, parts: dict[Part, int], stages: list[int]) -> RankKind:
    first, last = stages[0], stages[-1]
    per_stage = mesh.tp * mesh.dp
    return RankKind(
        name=f"teacher stage {first}" if first == last else f"teacher stages {first}-{last}",
        ranks=range(mesh.rank_offset + first * per_stage, mesh.rank_offset + (last + 1) * per_stage),
        parts=parts,
        loading_bytes=parts[Part.LANGUAGE_BODY] + parts.get(Part.VISION, 0),
    )


def stage_parts(config: RunConfig, mesh: MeshSpec, teacher: CountedTeacher, *, stage: int) -> dict[Part, int]:
    """Return the bytes of one rank of a pipeline stage.

    Its slice of the language body; vision tower and projector, whole, on the first stage. Hidden states
    `[t, 1, h]`, `[t/tp, 1, h]` under sequence parallelism, on their way to the stage after, and those of two
    units from the stage before. On the last stage the payload rows of `transfer.prefetch` units under way and
    of the next one, this tp rank's share of at most as many rows a unit as tokens, whatever the stage.
    """
    size = teacher.shapes.element_size
    is_first, is_last = stage == 0, stage == mesh.pp - 1
    body = teacher_body_parameters(teacher.language, mesh, stage=stage)
    parts = {Part.LANGUAGE_BODY: body * size}
    if is_first:
        parts[Part.VISION] = teacher.vision_parameters * size
    row, tokens = teacher.language.hidden_size * size, padded_tokens(config, mesh)
    buffers = (0 if is_last else MAX_SENDS_IN_FLIGHT) + (0 if is_first else 1 + RECEIVES_AHEAD)
    if buffers:
        parts[Part.PIPELINE] = buffers * tokens // (mesh.tp if mesh.sequence_parallel else 1) * row
    if is_last:
        parts[Part.TRANSFER] = (config.transfer.prefetch + 1) * -(-tokens // mesh.tp) * row
    parts[Part.ACTIVATIONS] = teacher_activations(config, mesh, teacher, is_first=is_first)
    return parts


def padded_tokens(config: RunConfig, mesh: MeshSpec) -> int:
    """Return the most tokens of a packed microbatch (see `data.order.deal_by_length`), padded to tp."""
    multiple = mesh.tp if mesh.sequence_parallel else 1
    return -(-config.most_unit_tokens // multiple) * multiple


def teacher_activations(config: RunConfig, mesh: MeshSpec, teacher: CountedTeacher, *, is_first: bool) -> int:
    """Estimate what a rank needs at once: layers keep nothing, one runs after the other.

    The first stage holds the pixels of the whole microbatch while it works; its vision tower, for this tp
    rank's share of the images, its embeddings and its layers come one after the other too.
    """
    size, tokens = teacher.shapes.element_size, padded_tokens(config, mesh)
    shape, vision = teacher.shapes.body, teacher.shapes.vision
    layers = tokens * forward_bytes_per_token(shape, element_size=size, tp=mesh.tp)
    if not is_first:
        return layers
    share = largest_vision_share(
        vision,
        unit_tokens=config.most_unit_tokens,
        max_tokens=config.data.max_tokens,
        tp=mesh.tp,
    )
    tower = share * vision_bytes_per_token(vision, element_size=size)
    embeddings = EMBEDDING_COPIES * tokens * shape.hidden_size * size
    return tokens * pixel_bytes_per_token(vision) + max(tower, embeddings, layers)
