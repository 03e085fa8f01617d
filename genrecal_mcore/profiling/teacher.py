"""Times a few decoder layers of a teacher, at their true sizes."""

from collections.abc import Sequence

import torch

from genrecal_mcore.config import LanguageBodySpec
from genrecal_mcore.models import Packing
from genrecal_mcore.models.teacher import TeacherLanguageBody
from genrecal_mcore.parallel import MeshSpec, create_mesh_groups
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.planning.shapes import TeacherShapes
from genrecal_mcore.planning.teacher_costs import layers_cost
from genrecal_mcore.planning.workload import PackedSize, SampleSize
from genrecal_mcore.profiling.fit import seconds_of_each
from genrecal_mcore.profiling.stopwatch import Stopwatch
from genrecal_mcore.profiling.units import bounds_of, variations

NUM_LAYERS = 4
SMALL_VOCABULARY = 8
"""Nothing is embedded here."""
WEIGHT_STD = 0.02
ALONE = MeshSpec(name="teacher")


def layer_seconds(
    shapes: TeacherShapes, spec: LanguageBodySpec, lengths: Sequence[int], watch: Stopwatch
) -> dict[Op, float]:
    """Return the seconds of a call of a layer, and of a flop of its linears and of its attention.

    The layers have random weights; timed over a unit of `lengths` and its variations.
    """
    body = random_layers(spec, shapes, watch.device)
    ops = (Op.TEACHER_LAYER_CALLS, Op.TEACHER_LINEARS, Op.TEACHER_ATTENTION)
    amounts, seconds = [], []
    for variation in variations(lengths):
        size = PackedSize.of([SampleSize(tokens=length, answer_tokens=1) for length in variation])
        cost = layers_cost(shapes, ALONE, size, num_layers=body.spec.num_layers)
        amounts.append([cost[op] for op in ops])
        seconds.append(forward_seconds(body, variation, watch))
    return dict(zip(ops, seconds_of_each(amounts, seconds), strict=True))


def random_layers(spec: LanguageBodySpec, shapes: TeacherShapes, device: torch.device) -> TeacherLanguageBody:
    """Return a language body of the teacher's sizes with a few layers and almost no vocabulary."""
    few = spec.model_copy(
        update={"num_layers": min(NUM_LAYERS, spec.num_layers), "vocab_size": SMALL_VOCABULARY}
    )
    dtype = {2: torch.bfloat16, 4: torch.float32}[shapes.element_size]
    body = TeacherLanguageBody(few, ALONE, create_mesh_groups(ALONE, rank=0), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in body.parameters():
        drawn = torch.empty(parameter.shape).normal_(0.0, WEIGHT_STD, generator=generator)
        parameter.data.copy_(drawn)
    return body.to(device)


@torch.inference_mode()
def forward_seconds(body: TeacherLanguageBody, lengths: Sequence[int], watch: Stopwatch) -> float:
    """Return the time of all layers over one unit."""
    packing = Packing.of(bounds_of(lengths), watch.device)
    dtype = body.config.params_dtype
    hidden_states = torch.randn(sum(lengths), 1, body.spec.hidden_size, dtype=dtype, device=watch.device)
    positions = packing.positions[None]
    if body.spec.mrope_section:
        positions = positions.expand(3, -1, -1)
    return watch.seconds(lambda: body(hidden_states, positions, packing))
