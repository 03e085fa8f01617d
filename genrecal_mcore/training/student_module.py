"""The student side of one unit of work as one `torch` module: bodies in, loss out.

Everything that learns hangs under this module, so that FSDP2 sees one root with one forward, and a checkpoint
one tree of names: `student.*` and `recalibrator.*`.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from genrecal_mcore.data import Microbatch, RecalibratorLayout, student_path_layout, teacher_path_layout
from genrecal_mcore.losses import frozen_head_loss, student_head_loss
from genrecal_mcore.models import Packing, Recalibrator, student_body, student_embeddings, vision_side
from genrecal_mcore.training.stages import Stage

LOSS_TERMS = (
    "ce_recal_boundary",
    "ce_recal_rest",
    "kl_recal_boundary",
    "kl_recal_rest",
    "ce_reg",
    "kl_reg",
    "ce_student",
)
"""Order of the sums that the module returns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentUnit:
    """What a student rank needs for one microbatch, on its device."""

    student: Microbatch
    teacher: Microbatch | None
    """The same samples in the teacher's tokens, without pixels; None where no teacher takes part."""
    payload: torch.Tensor | None
    """`[rows, h_t]` teacher features in the order of `data.payload_rows`."""
    teacher_answer_tokens: int
    """Label-bearing tokens of the whole step, over all ranks and microbatches, in the teacher's tokenizer."""
    student_answer_tokens: int
    """The same in the student's tokenizer."""


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

    def forward(self, unit: StudentUnit) -> tuple[torch.Tensor, torch.Tensor]:
        """Return this unit's share of the step's loss, a scalar, and its loss sums `[len(LOSS_TERMS)]`,
        detached.

        Each sum is divided once, by the step's global count of label-bearing tokens, so that the gradient
        depends neither on the number of ranks nor on that of microbatches.
        """
        hidden_states = self._student_hidden_states(unit.student)  # z_qs, z_as: [t, h_s]
        sums = torch.zeros(len(LOSS_TERMS), dtype=torch.float64, device=hidden_states.device)
        loss = torch.zeros((), device=hidden_states.device)
        if self.stage.student_path:
            layout = student_layout(unit, with_questions=self.stage.with_questions)
            rows = hidden_states[layout.student_rows]
            total, ce, kl = self._recalibrated_loss(unit, layout, rows)
            loss = loss + total / unit.teacher_answer_tokens
            boundary = layout.is_boundary
            sums[0], sums[1] = ce[boundary].sum(), ce[~boundary].sum()
            sums[2], sums[3] = kl[boundary].sum(), kl[~boundary].sum()
        if self.stage.teacher_path:
            layout = regularizer_layout(unit)
            no_rows = hidden_states.new_zeros(0, hidden_states.shape[1])
            total, ce, kl = self._recalibrated_loss(unit, layout, no_rows)
            loss = loss + total / unit.teacher_answer_tokens
            sums[4], sums[5] = ce.sum(), kl.sum()
        if self.stage.student_ce:
            ce_sum = self._student_ce(unit.student, hidden_states)
            loss = loss + ce_sum / unit.student_answer_tokens
            sums[6] = ce_sum.detach()
        if unit.student.vision is None:
            loss = loss + self._nothing_of_the_projector()
        return loss, sums

    def _nothing_of_the_projector(self) -> torch.Tensor | float:
        """Return a zero that depends on what learns of the vision side.

        FSDP reduces the gradients that are there: without this, a rank whose samples have no image would
        reduce fewer than its peers, and a microbatch without one would leave gaps in the sum.
        """
        vision = vision_side(self.student)
        learning = [p for module in vision for p in module.parameters() if p.requires_grad]
        zeros = [p.sum() * 0.0 for p in learning]
        return torch.stack(zeros).sum() if zeros else 0.0

    def _student_hidden_states(self, batch: Microbatch) -> torch.Tensor:
        vision = batch.vision
        with torch.set_grad_enabled(self.stage.student_learns != "nothing"):
            embeddings = student_embeddings(
                self.student,
                batch.input_ids,
                vision.pixel_values if vision else None,
                vision.image_grid_thw if vision else None,
            )
            packing = Packing.of(batch.bounds, embeddings.device)
            return student_body(self.student, embeddings, batch.position_ids, packing)

    def _recalibrated_loss(
        self, unit: StudentUnit, layout: RecalibratorLayout, student_rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # Alg. 1 lines 4-6: Recalibrator, then CE to the labels and KL to the teacher through the teacher's
        # head.
        assert self.recalibrator is not None and unit.payload is not None
        packing = Packing.of(layout.bounds, layout.source.device)
        recalibrated = self.recalibrator(student_rows, unit.payload, layout.source, packing)  # [s, h_t]
        out = frozen_head_loss(
            recalibrated[layout.label_rows],
            unit.payload[layout.teacher_rows],
            layout.labels,
            self.teacher_head,
            memory_budget_bytes=self.loss_memory_bytes,
        )
        return out.total, out.ce, out.kl

    def _student_ce(self, batch: Microbatch, hidden_states: torch.Tensor) -> torch.Tensor:
        # Question positions never see the vocabulary: only rows that predict an answer token are projected.
        positions = label_positions(batch)
        rows = hidden_states[positions]
        labels = batch.input_ids[0, positions + 1]
        weight = self.student.get_output_embeddings().weight
        return student_head_loss(rows, labels, weight, memory_budget_bytes=self.loss_memory_bytes)


def student_layout(unit: StudentUnit, *, with_questions: bool) -> RecalibratorLayout:
    """Return the student path's layout on the unit's device."""
    assert unit.teacher is not None
    layout = student_path_layout(
        unit.student.answer_spans,
        unit.teacher.answer_spans,
        unit.teacher.input_ids,
        with_questions=with_questions,
    )
    return layout.to(unit.student.input_ids.device)


def regularizer_layout(unit: StudentUnit) -> RecalibratorLayout:
    """Return the teacher path's layout on the unit's device."""
    assert unit.teacher is not None
    layout = teacher_path_layout(unit.teacher.answer_spans, unit.teacher.input_ids)
    return layout.to(unit.student.input_ids.device)


def label_positions(batch: Microbatch) -> torch.Tensor:
    """Return the positions `[n]` in the packed sequence of every row that predicts an answer token."""
    positions = [
        first + position
        for first, spans in zip(batch.bounds, batch.answer_spans, strict=False)
        for start, end in spans
        for position in range(start - 1, end - 1)
    ]
    return torch.tensor(positions, device=batch.input_ids.device)
