"""Cross entropy and KL through one frozen head, in chunks of rows: no `[t, v]` tensor, no gradient for the
head.

The gradient is computed with the value, so that logits are made once and dropped. `reference` is the same in
plain PyTorch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from genrecal_mcore.losses.chunks import even_rows, rows_per_chunk
from genrecal_mcore.losses.head_products import rows_gradient, scaled, wide_dtype, write_logits

FROZEN_HEAD_BUFFERS = 4
"""Matrices `[chunk, v]` in fp32 that the budget has room for: both logits, the teacher's probabilities, and
one for what is smaller: copies for the products, in 16 bits or of parts of the head, and rows `[chunk, h]`.
It is enough where v is at least 4 h.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What CE and KL count in the total; not both 0."""

    ce: float = 1.0
    kl: float = 1.0

    @property
    def sum(self) -> float:
        """The weight of p_r in the gradient, which both losses have."""
        return self.ce + self.kl


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenHeadLoss:
    """Sums and rows of CE and KL."""

    total: torch.Tensor
    """Scalar: weighted sum of CE and KL over all rows; the only part with a gradient."""
    ce: torch.Tensor
    """`[t]` fp32, detached."""
    kl: torch.Tensor
    """`[t]` fp32, detached."""


def frozen_head_loss(  # noqa: PLR0913 - the four tensors of the formula, and how it is computed
    recalibrated: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    head: torch.Tensor,
    *,
    weights: LossWeights = LossWeights(),
    memory_budget_bytes: int,
) -> FrozenHeadLoss:
    """Return CE(head(r), labels) and KL(softmax(head(z)) || softmax(head(r))), summed over rows (Alg. 1 lines
    5-6), and in the total weighted.

    `recalibrated` r `[t, h]`, `teacher` z `[t, h]`, `labels` `[t]`, `head` `[v, h]`. Factors of products are
    in the head's dtype; logits, softmax and sums in fp32, or in fp64, at twice the memory, for an fp64 head.
    Extra memory besides the gradient `[t, h]` stays below `memory_budget_bytes`, whatever t. Raises
    `ValueError` when not even one row fits.
    """
    most_rows = rows_per_chunk(head.shape[0], memory_budget_bytes, num_buffers=FROZEN_HEAD_BUFFERS)
    if not torch.is_grad_enabled():
        recalibrated = recalibrated.detach()  # within `forward` it would still say that it needs a gradient
    total, ce, kl = _FrozenHeadLoss.apply(recalibrated, teacher, labels, head, weights, most_rows)
    return FrozenHeadLoss(total=total, ce=ce, kl=kl)


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - autograd passes positional tensors only
        ctx: Any,
        recalibrated: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
        head: torch.Tensor,
        weights: LossWeights,
        most_rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ce = torch.empty(labels.shape, dtype=wide_dtype(head), device=labels.device)
        kl = torch.empty_like(ce)
        gradient = torch.empty_like(recalibrated) if ctx.needs_input_grad[0] else None
        rows = even_rows(len(labels), most=most_rows)
        buffers = ce.new_empty(3 * rows, head.shape[0])
        for start in range(0, len(labels), rows):
            chunk = slice(start, start + rows)
            r, z, p_l = _logits_of_both(recalibrated[chunk], teacher[chunk], head, buffers=buffers)
            ce[chunk], kl[chunk] = _losses_(r, z, labels[chunk], p_l=p_l)
            if gradient is not None:
                gradient[chunk] = rows_gradient(_logits_gradient_(r, p_l, labels[chunk], weights), head)
        if gradient is not None:
            ctx.save_for_backward(gradient)
            ctx.scale = weights.sum
        ctx.mark_non_differentiable(ce, kl)
        return weights.ce * ce.sum() + weights.kl * kl.sum(), ce, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, ctx.scale * grad_total, dtype=gradient.dtype), None, None, None, None, None


def _logits_of_both(
    recalibrated: torch.Tensor, teacher: torch.Tensor, head: torch.Tensor, *, buffers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the logits r and z, and room for p_l, each `[c, v]`, all within `buffers` `[>= 3 c, v]`."""
    rows = torch.cat((recalibrated.to(head.dtype), teacher.to(head.dtype)))
    # One product for both, so that the head is read once.
    write_logits(rows, head, out=buffers[: len(rows)])
    r, z, p_l = buffers[: 3 * len(recalibrated)].chunk(3)
    return r, z, p_l


def _losses_(
    r: torch.Tensor, z: torch.Tensor, labels: torch.Tensor, *, p_l: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CE `[c]` and KL `[c]` of logits r and z `[c, v]`; leave log p_r in r and p_l in `p_l`.

    Every step works in place: memory traffic is what the time between two products goes into. torch computes
    `log_softmax` row by row and reads a row's maximum and sum before it writes, so `out` may be its input.
    """
    log_r = torch.log_softmax(r, -1, out=r)
    log_l = torch.log_softmax(z, -1, out=z)
    torch.exp(log_l, out=p_l)
    ce = -log_r.gather(1, labels[:, None]).squeeze(1)
    kl = log_l.sub_(log_r).mul_(p_l).sum(-1)
    return ce, kl


def _logits_gradient_(
    log_r: torch.Tensor, p_l: torch.Tensor, labels: torch.Tensor, weights: LossWeights
) -> torch.Tensor:
    """Return d(total)/d(logits r) `[c, v]`, divided by the sum of the weights, in the place of `log_r`."""
    # d CE / d logits = p_r - onehot, d KL / d logits = p_r - p_l: p_r counts with the sum, which the backward
    # pass multiplies with, so that one pass over [c, v] is enough.
    gradient = log_r.exp_().sub_(p_l, alpha=weights.kl / weights.sum)
    onehot = gradient.new_full((len(labels), 1), -weights.ce / weights.sum)
    return gradient.scatter_add_(1, labels[:, None], onehot)
