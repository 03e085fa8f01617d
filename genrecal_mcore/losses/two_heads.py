"""Cross entropy and a divergence between two models' own distributions, each through its own head, in chunks.

Student rows go through the student's head, teacher rows through the teacher's; no `[t, v]` tensor, no
gradient for a head. The student's logits are made once for both losses, the gradient with the value.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from genrecal_mcore.losses.chunks import even_rows, rows_per_chunk
from genrecal_mcore.losses.divergences import DIVERGENCES
from genrecal_mcore.losses.head_products import rows_gradient, scaled, wide_dtype, write_logits

TWO_HEAD_BUFFERS = 4
"""Matrices `[chunk, v]` in fp32 that the budget has room for: log q, log p, a third, and one for what is
smaller (see `frozen_head`).
"""

NO_LABEL = -100
"""Label of a row that no cross entropy counts; torch's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilledRows:
    """What both models computed at the same t positions."""

    student: torch.Tensor
    """`[t, h_s]`."""
    teacher: torch.Tensor
    """`[t, h_t]`."""
    labels: torch.Tensor
    """`[t]` next tokens, `NO_LABEL` where none is learnt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoHeadObjective:
    """Which divergence, and what each loss of a row counts in the total."""

    divergence: str
    """A key of `DIVERGENCES`."""
    skew: float
    """Of `skew_reverse_kl`."""
    ce_scale: float
    """1 over the step's global count of labels."""
    divergence_scale: float
    """1 over the step's global count of distilled positions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoHeadLoss:
    """The total and what it is made of."""

    total: torch.Tensor
    """Scalar: both losses, each summed over the rows and scaled; the only part with a gradient."""
    ce: torch.Tensor
    """`[t]` fp32, detached; 0 where there is no label."""
    divergence: torch.Tensor
    """`[t]` fp32, detached."""


def two_head_loss(
    rows: DistilledRows,
    student_head: torch.Tensor,
    teacher_head: torch.Tensor,
    *,
    objective: TwoHeadObjective,
    memory_budget_bytes: int,
) -> TwoHeadLoss:
    """Return CE(student_head(z_s), labels) and the divergence of softmax(student_head(z_s)) from
    softmax(teacher_head(z_l)).

    `student_head` `[v_s, h_s]`, `teacher_head` `[v_t, h_t]`: both distributions are over the rows that the
    heads have in common, where the labels must lie; one tokenizer may be padded to different sizes. Factors
    of products are in each head's dtype; logits, softmax and sums in fp32. Extra memory besides the gradient
    `[t, h_s]` stays below `memory_budget_bytes`. Raises `ValueError` when not even one row fits, or the
    student's head learns.
    """
    if student_head.requires_grad:
        raise ValueError("the student's head learns, but this loss has no gradient for it; freeze the head")
    vocab_size = min(len(student_head), len(teacher_head))
    total, ce, divergence = _TwoHeadLoss.apply(
        rows.student,
        rows,
        student_head[:vocab_size],
        teacher_head[:vocab_size],
        objective,
        rows_per_chunk(vocab_size, memory_budget_bytes, num_buffers=TWO_HEAD_BUFFERS),
    )
    return TwoHeadLoss(total=total, ce=ce, divergence=divergence)


class _TwoHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - autograd passes positional arguments only
        ctx: Any,
        student: torch.Tensor,
        rows: DistilledRows,
        student_head: torch.Tensor,
        teacher_head: torch.Tensor,
        objective: TwoHeadObjective,
        most_rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = torch.promote_types(wide_dtype(student_head), wide_dtype(teacher_head))
        ce = torch.empty(rows.labels.shape, dtype=dtype, device=student.device)
        divergence, gradient = torch.empty_like(ce), torch.empty_like(student)
        chunk_rows = even_rows(len(ce), most=most_rows)
        buffers = ce.new_empty(3, chunk_rows, len(student_head))
        for start in range(0, len(ce), chunk_rows):
            chunk = slice(start, start + chunk_rows)
            labels = rows.labels[chunk]
            log_q, log_p, room = buffers[:, : len(labels)]
            _write_log_probabilities(student[chunk], student_head, out=log_q)
            _write_log_probabilities(rows.teacher[chunk], teacher_head, out=log_p)
            ce[chunk], divergence[chunk], logits_gradient = _losses_((log_q, log_p, room), labels, objective)
            gradient[chunk] = rows_gradient(logits_gradient, student_head)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(ce, divergence)
        total = objective.ce_scale * ce.sum() + objective.divergence_scale * divergence.sum()
        return total, ce, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, grad_total, dtype=gradient.dtype), None, None, None, None, None


def _write_log_probabilities(rows: torch.Tensor, head: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write log softmax of head(rows) into `out` `[c, v]`."""
    write_logits(rows, head, out=out)
    torch.log_softmax(out, -1, out=out)


def _losses_(
    matrices: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    labels: torch.Tensor,
    objective: TwoHeadObjective,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return CE `[c]`, divergence `[c]` and the total's gradient for the student's logits `[c, v]`.

    `matrices` are log q, log p and room for a third; the gradient takes the place of one of them.
    """
    log_q, log_p, room = matrices
    has_label = (labels != NO_LABEL).to(log_q.dtype)
    index = labels.clamp(min=0)[:, None]
    ce = -log_q.gather(1, index).squeeze(1) * has_label
    divergence, gradient, q = DIVERGENCES[objective.divergence](log_q, log_p, room, objective.skew)
    # d CE / d logits = q - onehot.
    ce_scales = (objective.ce_scale * has_label)[:, None]
    gradient.mul_(objective.divergence_scale).addcmul_(q, ce_scales)
    return ce, divergence, gradient.scatter_add_(1, index, -ce_scales)
