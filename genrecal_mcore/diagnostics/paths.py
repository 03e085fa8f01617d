"""Runs one sample through the Recalibrator, on the student's path or on the teacher's."""

from dataclasses import dataclass

import torch

from genrecal_mcore.data import RecalibratorLayout, student_path_layout, teacher_path_layout
from genrecal_mcore.diagnostics.run_models import RunModels
from genrecal_mcore.diagnostics.samples import SampleFeatures
from genrecal_mcore.losses import FrozenHeadLoss, frozen_head_loss
from genrecal_mcore.models import Packing
from genrecal_mcore.training.student_module import teacher_inputs
from genrecal_mcore.training.student_unit import text_ends_of


@dataclass(frozen=True, kw_only=True, slots=True)
class PathOutput:
    """What one path made of a sample."""

    layout: RecalibratorLayout
    losses: FrozenHeadLoss
    """CE and KL of the layout's label-bearing positions."""
    pooled: dict[str, torch.Tensor]
    """Means over positions, fp32 on the CPU. `before` and `after` `[h_s]`: what enters and what leaves
    Rec-body at question positions (Figure 6). `recalibrated_all` and `recalibrated_boundary` `[h_t]`: what
    the teacher's head reads, at all positions and at the boundaries (Figure 7).
    """


def student_path(models: RunModels, student: SampleFeatures, teacher: SampleFeatures) -> PathOutput:
    """Run `[z_qs, pre(z_al)]`."""
    layout = student_path_layout(
        (student.answer_spans,),
        (teacher.answer_spans,),
        teacher.batch.input_ids,
        with_questions=True,
        text_ends=text_ends_of(student.batch, teacher.batch),
    )
    return _run(models, layout, student.features[layout.student_rows], teacher)


def teacher_path(models: RunModels, teacher: SampleFeatures) -> PathOutput:
    """Run `[pre(z_ql), pre(z_al)]`."""
    layout = teacher_path_layout((teacher.answer_spans,), teacher.batch.input_ids)
    no_rows = torch.zeros(0, models.student.config.get_text_config().hidden_size)
    return _run(models, layout, no_rows, teacher)


def _run(
    models: RunModels, layout: RecalibratorLayout, student_rows: torch.Tensor, teacher: SampleFeatures
) -> PathOutput:
    device, layout = models.device, layout.to(models.device)
    payload = teacher.features.to(device)
    answers = models.answers.of_unit(teacher.batch, models.step, device) if models.answers else None
    seen: list[torch.Tensor] = []
    hook = models.recalibrator.rec_body.register_forward_hook(
        lambda _, inputs, output: seen.extend((inputs[0][0], output[0]))
    )
    try:
        recalibrated = models.recalibrator(
            student_rows.to(device),
            teacher_inputs(payload, answers),
            layout.source,
            Packing.of(layout.bounds, device),
        )
    finally:
        hook.remove()
    losses = frozen_head_loss(
        recalibrated[layout.label_rows],
        payload[layout.teacher_rows],
        layout.labels,
        models.head,
        memory_budget_bytes=models.loss_memory_bytes,
    )
    before, after = (rows[layout.question_rows] for rows in seen)
    boundary = recalibrated[layout.label_rows[layout.boundary]]
    rows_of = {"before": before, "after": after}
    rows_of |= {"recalibrated_all": recalibrated, "recalibrated_boundary": boundary}
    pooled = {name: rows.float().mean(0).cpu() for name, rows in rows_of.items()}
    return PathOutput(layout=layout, losses=losses, pooled=pooled)
