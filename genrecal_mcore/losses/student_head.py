"""Cross entropy through the student's own head, which may learn, in chunks of rows.

torch's `linear_cross_entropy` is as fast in fp32, but in bfloat16 it rounds the sum of the losses and the
incoming gradient to 16 bits, each off by up to 0.4 %, and without chunks the logits too.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from genrecal_mcore.losses.chunks import even_rows, rows_per_chunk
from genrecal_mcore.losses.head_products import (
    add_head_gradient_,
    rows_gradient,
    scaled,
    wide_dtype,
    write_logits,
)

STUDENT_HEAD_BUFFERS = 2
"""Matrices `[chunk, v]` in fp32 that the budget has room for: the logits, and copies for the products."""


def student_head_loss(
    rows: torch.Tensor, labels: torch.Tensor, head_weight: torch.Tensor, *, memory_budget_bytes: int
) -> torch.Tensor:
    """Return the sum of the cross entropy of `rows` `[t, h]` through `head_weight` `[v, h]`, labels `[t]`, in
    fp32.

    The head's gradient is computed where the head learns, summed in fp32. Extra memory besides the gradients
    stays below `memory_budget_bytes`. Raises `ValueError` when the budget holds not even one row of logits.
    """
    most_rows = rows_per_chunk(head_weight.shape[0], memory_budget_bytes, num_buffers=STUDENT_HEAD_BUFFERS)
    if not torch.is_grad_enabled():  # within `forward` both would still say that they need a gradient
        rows, head_weight = rows.detach(), head_weight.detach()
    return _StudentHeadLoss.apply(rows, labels, head_weight, most_rows)


class _StudentHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_states: torch.Tensor, labels: torch.Tensor, head: torch.Tensor, most_rows: int
    ) -> torch.Tensor:
        ce = torch.empty(labels.shape, dtype=wide_dtype(head), device=labels.device)
        gradient = torch.empty_like(hidden_states) if ctx.needs_input_grad[0] else None
        head_gradient = torch.zeros_like(head, dtype=ce.dtype) if ctx.needs_input_grad[2] else None
        rows = even_rows(len(labels), most=most_rows)
        buffer = ce.new_empty(rows, head.shape[0])
        for start in range(0, len(labels), rows):
            chunk = slice(start, start + rows)
            logits = buffer[: len(labels[chunk])]
            write_logits(hidden_states[chunk], head, out=logits)
            ce[chunk] = _losses_(logits, labels[chunk])
            if gradient is not None:
                gradient[chunk] = rows_gradient(logits, head)
            if head_gradient is not None:
                add_head_gradient_(head_gradient, logits, hidden_states[chunk].to(head.dtype))
        ctx.save_for_backward(gradient, head_gradient)
        ctx.head_dtype = head.dtype
        return ce.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, head_gradient = ctx.saved_tensors
        return (
            None if gradient is None else scaled(gradient, grad, dtype=gradient.dtype),
            None,
            None if head_gradient is None else scaled(head_gradient, grad, dtype=ctx.head_dtype),
            None,
        )


def _losses_(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return CE `[c]` of logits `[c, v]`, and put its gradient in their place."""
    index = labels[:, None]
    log_p = torch.log_softmax(logits, -1, out=logits)
    ce = -log_p.gather(1, index).squeeze(1)
    log_p.exp_().scatter_add_(1, index, torch.full_like(index, -1.0, dtype=log_p.dtype))
    return ce
