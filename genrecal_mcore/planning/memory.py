"""The memory plan of a run: bytes by kind of rank, from the configuration, the layout and the counted models.

Exact are weights, gradients, AdamW's state, the head and buffers; activations are an estimate, see
`activations`. Not counted are the CUDA context, NCCL's buffers and what the allocator loses to fragments.
"""

from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import Layout
from genrecal_mcore.planning.counted import CountedModels
from genrecal_mcore.planning.parts import RankKind
from genrecal_mcore.planning.student_memory import student_kind
from genrecal_mcore.planning.teacher_memory import teacher_kinds


def plan_memory(config: RunConfig, layout: Layout, models: CountedModels) -> tuple[RankKind, ...]:
    """Return what every kind of rank needs, the teacher's stages first."""
    kinds: tuple[RankKind, ...] = ()
    if layout.teacher is not None:
        assert models.teacher is not None
        kinds = teacher_kinds(config, layout.teacher, models.teacher)
    return (*kinds, student_kind(config, layout.student, models))
