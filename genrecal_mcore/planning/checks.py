"""What a plan refuses before it counts: what `train` would refuse, in the same words."""

from genrecal_mcore.config import RunConfig
from genrecal_mcore.losses.chunks import rows_per_chunk
from genrecal_mcore.losses.frozen_head import FROZEN_HEAD_BUFFERS
from genrecal_mcore.losses.student_head import STUDENT_HEAD_BUFFERS
from genrecal_mcore.native import model_config
from genrecal_mcore.parallel import Layout, layout_of
from genrecal_mcore.planning.models import PlannedModels
from genrecal_mcore.training.job import check_inputs
from genrecal_mcore.training.stages import stage_of


def check_run(config: RunConfig, *, num_ranks: int | None = None) -> Layout:
    """Return the layout over `num_ranks` ranks, or over as many as the meshes need.

    Raises `ValueError` when the meshes do not tile them, and for folders that are damaged, missing, or that
    the teacher's mesh cannot hold.
    """
    layout = layout_of(config.mesh, world_size=num_ranks or ranks_needed(config))
    check_inputs(config, layout)
    return layout


def check_nodes(layout: Layout, *, teacher_ranks_per_node: int) -> None:
    """Raise `ValueError` when a tensor-parallel group would lie on two nodes: its traffic needs NVLink."""
    tp = layout.teacher.tp if layout.teacher else 1
    if teacher_ranks_per_node % tp:
        raise ValueError(
            f"mesh.teacher.tp ({tp}) does not divide the {teacher_ranks_per_node} teacher ranks of a node: "
            "a tensor-parallel group would lie on two nodes; change mesh.teacher.tp or the ranks a node"
        )


def ranks_needed(config: RunConfig) -> int:
    """Return how many ranks both meshes have together."""
    teacher = config.mesh.teacher
    return config.mesh.student.dp + (teacher.tp * teacher.pp * teacher.dp if teacher else 0)


def check_loss_budget(config: RunConfig, models: PlannedModels) -> None:
    """Raise `ValueError` when the loss budget holds no row of a head's logits; training sees it at step 0."""
    budget = config.loss.memory_budget_mib * 2**20
    if models.teacher is not None:
        rows_per_chunk(models.teacher.language.vocab_size, budget, num_buffers=FROZEN_HEAD_BUFFERS)
    if stage_of(config).student_ce:
        student = model_config(models.student.native_config, models.student.family)
        vocab_size = student.get_text_config().vocab_size
        rows_per_chunk(vocab_size, budget, num_buffers=STUDENT_HEAD_BUFFERS)
