"""Cross entropy and KL through one frozen head, in chunks of rows: no `[t, v]` tensor, no gradient for the
head.

The gradient is computed with the value, so that logits are made once and dropped. `reference` is the same in
plain PyTorch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

LOGITS_BUFFERS = 4
"""Matrices `[chunk, v]` in fp32 alive at once: both logits, one product, and one temporary of the log-sum-
exp.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenHeadLoss:
    """Sums and rows of CE and KL."""

    total: torch.Tensor
    """Scalar: weighted sum of CE and KL over all rows; the only part with a gradient."""
    ce: torch.Tensor
    """`[t]` fp32, detached."""
    kl: torch.Tensor
    """`[t]` fp32, detached."""


def frozen_head_loss(
    recalibrated: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    head: torch.Tensor,
    *,
    memory_budget_bytes: int,
) -> FrozenHeadLoss:
    """Return CE(head(r), labels) and KL(softmax(head(z)) || softmax(head(r))), summed over rows (Alg. 1 lines
    5-6).

    `recalibrated` r `[t, h]`, `teacher` z `[t, h]`, `labels` `[t]`, `head` `[v, h]`. Products run in the
    head's dtype, sums in fp32. Extra memory besides the gradient `[t, h]` stays below `memory_budget_bytes`.
    Raises `ValueError` when not even one row fits.
    """
    rows = rows_per_chunk(head.shape[0], memory_budget_bytes)
    total, ce, kl = _FrozenHeadLoss.apply(recalibrated, teacher, labels, head, rows)
    return FrozenHeadLoss(total=total, ce=ce, kl=kl)


def rows_per_chunk(vocab_size: int, memory_budget_bytes: int) -> int:
    """Return how many rows of fp32 logits the budget holds; raises `ValueError` when it is none."""
    bytes_per_row = LOGITS_BUFFERS * vocab_size * 4
    rows = memory_budget_bytes // bytes_per_row
    if rows < 1:
        raise ValueError(
            f"loss.memory_budget_mib: {memory_budget_bytes} bytes do not hold one row of logits over "
            f"{vocab_size} tokens; set it to at least {-(-bytes_per_row // 2**20)} MiB"
        )
    return rows


class _FrozenHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - autograd passes positional tensors only
        ctx: Any,
        recalibrated: torch.Tensor,
        teacher: torch.Tensor,
        labels: torch.Tensor,
        head: torch.Tensor,
        rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ce = torch.empty(labels.shape, dtype=torch.float32, device=labels.device)
        kl = torch.empty_like(ce)
        gradient = torch.empty_like(recalibrated) if ctx.needs_input_grad[0] else None
        for start in range(0, len(labels), rows):
            chunk = slice(start, start + rows)
            ce[chunk], kl[chunk], logits_gradient = _chunk_loss(
                recalibrated[chunk], teacher[chunk], labels[chunk], head, want_gradient=gradient is not None
            )
            if gradient is not None:
                assert logits_gradient is not None
                gradient[chunk] = logits_gradient.to(head.dtype) @ head
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(ce, kl)
        return ce.sum() + kl.sum(), ce, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_total.to(gradient.dtype), None, None, None, None


def _chunk_loss(
    recalibrated: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    head: torch.Tensor,
    *,
    want_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return CE `[c]`, KL `[c]` and d(CE + KL)/d(logits) `[c, v]` of one chunk."""
    index = labels[:, None]
    log_r = (recalibrated.to(head.dtype) @ head.t()).float()
    log_r -= torch.logsumexp(log_r, dim=-1, keepdim=True)
    ce = -log_r.gather(1, index).squeeze(1)
    log_l = (teacher.to(head.dtype) @ head.t()).float()
    log_l -= torch.logsumexp(log_l, dim=-1, keepdim=True)
    p_l = log_l.exp()
    kl = (log_l.sub_(log_r)).mul_(p_l).sum(-1)
    if not want_gradient:
        return ce, kl, None
    # d CE / d logits = p_r - onehot, d KL / d logits = p_r - p_l.
    gradient = log_r.exp_().mul_(2.0).sub_(p_l)
    gradient.scatter_add_(1, index, torch.full_like(index, -1.0, dtype=gradient.dtype))
    return ce, kl, gradient
