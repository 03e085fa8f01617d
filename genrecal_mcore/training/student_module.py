"""The student side of one unit of work as one `torch` module: bodies in, loss out.

Everything that learns hangs under this module, so that FSDP2 sees one root with one forward, and a checkpoint
one tree of names: `student.*` and `recalibrator.*`.
"""

import torch
from torch import nn
from transformers import PreTrainedModel

from genrecal_mcore.data import (
    Microbatch,
    RecalibratorLayout,
    compared_rows,
    label_positions,
    with_shares_apart,
)
from genrecal_mcore.losses import (
    NO_LABEL,
    DistilledRows,
    TwoHeadLoss,
    TwoHeadObjective,
    frozen_head_loss,
    student_head_loss,
    two_head_loss,
)
from genrecal_mcore.models import (
    Packing,
    Recalibrator,
    student_body,
    student_embeddings,
    vision_side,
    with_embeddings,
)
from genrecal_mcore.training.answer_inputs import AnswerEmbeddings
from genrecal_mcore.training.stages import Stage
from genrecal_mcore.training.student_unit import (
    StudentUnit,
    regularizer_layout,
    student_layout,
    weighted_groups,
)
from genrecal_mcore.training.unit_sums import UnitSums


class StudentModule(nn.Module):
    """Student, Recalibrator and the frozen copy of the teacher's head."""

    teacher_head: torch.Tensor

    def __init__(
        self,
        student: PreTrainedModel,
        recalibrator: Recalibrator | None,
        teacher_head: torch.Tensor | None,
        *,
        stage: Stage,
        loss_memory_bytes: int,
    ) -> None:
        super().__init__()
        self.student = student
        self.recalibrator = recalibrator
        self.register_buffer("teacher_head", teacher_head, persistent=False)
        self.stage = stage
        self.loss_memory_bytes = loss_memory_bytes

    def forward(self, unit: StudentUnit, *, diagnoses: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this unit's share of the step's loss, a scalar, and its sums `[len(SUM_NAMES)]`, detached.

        Each sum is divided once, by the step's global count of label-bearing tokens, so that the gradient
        depends neither on the number of ranks nor on that of microbatches. With `diagnoses` the backward pass
        completes the sums.
        """
        with torch.set_grad_enabled(self.stage.student_learns != "nothing"):
            hidden_states = student_hidden_states(self.student, unit.student)  # z_qs, z_as: [t, h_s]
        sums = UnitSums(hidden_states.device)
        loss = torch.zeros((), device=hidden_states.device)
        if self.stage.student_path:
            loss = loss + self._student_path(unit, hidden_states, sums, diagnoses=diagnoses)
        if self.stage.teacher_path:
            loss = loss + self._teacher_path(unit, hidden_states, sums)
        if self.stage.comparison is not None:
            loss = loss + self._both_heads(unit, hidden_states, sums)
        elif self.stage.student_ce:
            loss = loss + self._student_ce(unit, hidden_states, sums)
        if unit.student.vision is None:
            loss = loss + self._nothing_of_the_projector()
        sums.add("loss", loss)
        return loss, sums.values

    def _nothing_of_the_projector(self) -> torch.Tensor | float:
        """Return a zero that depends on what learns of the vision side.

        FSDP reduces the gradients that are there: without this, a rank whose samples have no image would
        reduce fewer than its peers, and a microbatch without one would leave gaps in the sum.
        """
        vision = vision_side(self.student)
        learning = [p for module in vision for p in module.parameters() if p.requires_grad]
        zeros = [p.sum() * 0.0 for p in learning]
        return torch.stack(zeros).sum() if zeros else 0.0

    def _student_path(
        self, unit: StudentUnit, hidden_states: torch.Tensor, sums: UnitSums, *, diagnoses: bool
    ) -> torch.Tensor:
        layout = student_layout(unit, with_questions=self.stage.with_questions)
        if diagnoses:
            layout = with_shares_apart(layout)
        student_rows = hidden_states[layout.student_rows]
        if diagnoses:
            student_rows = sums.add_gradient_squares(student_rows, layout)
        loss, ce, kl = self._recalibrated_loss(unit, layout, student_rows)
        for name, values in (("ce_recal", ce), ("kl_recal", kl)):
            sums.add(f"{name}_boundary", values[layout.boundary])
            sums.add(f"{name}_rest", values[layout.rest])
        return loss

    def _teacher_path(self, unit: StudentUnit, hidden_states: torch.Tensor, sums: UnitSums) -> torch.Tensor:
        no_rows = hidden_states.new_zeros(0, hidden_states.shape[1])
        loss, ce, kl = self._recalibrated_loss(unit, regularizer_layout(unit), no_rows)
        sums.add("ce_reg", ce)
        sums.add("kl_reg", kl)
        return loss

    def _recalibrated_loss(
        self, unit: StudentUnit, layout: RecalibratorLayout, student_rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the loss of one path and, detached, CE and KL `[t]` of its label-bearing positions."""
        # Alg. 1 lines 4-6: Recalibrator, then CE to the labels and KL to the teacher through the teacher's
        # head.
        assert self.recalibrator is not None and unit.payload is not None
        inputs = teacher_inputs(unit.payload, unit.answers)
        packing = Packing.of(layout.bounds, layout.source.device)
        recalibrated = self.recalibrator(student_rows, inputs, layout.source, packing)  # [s, h_t]
        loss = torch.zeros((), device=layout.labels.device)
        ce = torch.zeros(layout.labels.shape, device=layout.labels.device)
        kl = torch.zeros_like(ce)
        for group, count in weighted_groups(layout, unit.counts, self.stage.position_weighting):
            out = frozen_head_loss(
                recalibrated[layout.label_rows[group]],
                unit.payload[layout.teacher_rows[group]],
                layout.labels[group],
                self.teacher_head,
                weights=self.stage.loss_weights,
                memory_budget_bytes=self.loss_memory_bytes,
            )
            loss = loss + out.total / count
            ce[group], kl[group] = out.ce, out.kl
        return loss, ce, kl

    def _both_heads(self, unit: StudentUnit, hidden_states: torch.Tensor, sums: UnitSums) -> torch.Tensor:
        out = self.both_heads_loss(unit, hidden_states)
        sums.add("ce_student", out.ce)
        sums.add("kl_student", out.divergence)
        return out.total

    def both_heads_loss(self, unit: StudentUnit, hidden_states: torch.Tensor) -> TwoHeadLoss:
        """Return CE and divergence of the student's `z_qs`, `z_as` `[t, h_s]` in traditional distillation."""
        # One projection of the student's rows serves both losses.
        comparison = self.stage.comparison
        assert comparison is not None and unit.teacher is not None and unit.payload is not None
        rows = compared_rows(unit.student, unit.teacher, comparison.positions, no_label=NO_LABEL)
        return two_head_loss(
            DistilledRows(
                student=hidden_states[rows.student_rows],
                teacher=unit.payload[rows.teacher_rows],
                labels=rows.labels,
            ),
            self.student.get_output_embeddings().weight,
            self.teacher_head,
            objective=TwoHeadObjective(
                divergence=comparison.divergence,
                skew=comparison.skew,
                ce_scale=1 / unit.counts.student_answer_tokens,
                divergence_scale=comparison.weight / unit.counts.compared(comparison.positions),
            ),
            memory_budget_bytes=self.loss_memory_bytes,
        )

    def _student_ce(self, unit: StudentUnit, hidden_states: torch.Tensor, sums: UnitSums) -> torch.Tensor:
        # Question positions never see the vocabulary: only rows that predict an answer token are projected.
        positions = label_positions(unit.student)
        ce_sum = student_head_loss(
            hidden_states[positions],
            unit.student.input_ids[0, positions + 1],
            self.student.get_output_embeddings().weight,
            memory_budget_bytes=self.loss_memory_bytes,
        )
        sums.add("ce_student", ce_sum)
        return ce_sum / unit.counts.student_answer_tokens


def student_hidden_states(student: PreTrainedModel, batch: Microbatch) -> torch.Tensor:
    """Return `z_qs` and `z_as` `[t, h_s]` of a packed microbatch, after the final norm (Alg. 1 line 3)."""
    vision = batch.vision
    embeddings = student_embeddings(
        student,
        batch.input_ids,
        vision.pixel_values if vision else None,
        vision.image_grid_thw if vision else None,
    )
    packing = Packing.of(batch.bounds, embeddings.device)
    return student_body(student, embeddings, batch.position_ids, packing)


def teacher_inputs(payload: torch.Tensor, answers: AnswerEmbeddings | None) -> torch.Tensor:
    """Return the payload `[rows, h_t]` as the Recalibrator reads it, with what stands for its answers."""
    if answers is None:
        return payload
    return with_embeddings(payload, answers.rows, answers.embeddings)
