"""Products with a vocabulary head: factors in the head's dtype, sums and results in fp32 (fp64 with an fp64
head).

Logits are never rounded to 16 bits. On CUDA torch multiplies 16-bit matrices into fp32 (`out_dtype`); its CPU
kernels round, so there the head is widened first, a block of the vocabulary at a time.
"""

import torch

BLOCKS_PER_BUFFER = 16
"""How many blocks `[block, h]` of a head or its gradient are as large as the logits that they go with."""


def wide_dtype(head: torch.Tensor) -> torch.dtype:
    """Return the dtype of logits and sums."""
    return torch.promote_types(head.dtype, torch.float32)


def write_logits(rows: torch.Tensor, head: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write `rows` `[n, h]` times the head `[v, h]` into `out` `[n, v]`, of the wide dtype."""
    rows, size = rows.to(head.dtype), _block_size(head, logits=out)
    for head_block, logits in zip(head.split(size), out.split(size, dim=1), strict=True):
        _multiply(rows, head_block.t(), out=logits)


def rows_gradient(logits_gradient: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Return `logits_gradient` `[n, v]` times the head `[v, h]`: `[n, h]` in the wide dtype."""
    total = logits_gradient.new_zeros(len(logits_gradient), head.shape[1])
    product, size = torch.empty_like(total), _block_size(head, logits=logits_gradient)
    for head_block, block in zip(head.split(size), logits_gradient.split(size, dim=1), strict=True):
        _multiply(block, head_block, out=product)
        total += product
    return total


def add_head_gradient_(total: torch.Tensor, logits_gradient: torch.Tensor, rows: torch.Tensor) -> None:
    """Add `logits_gradient` `[n, v]`, transposed, times `rows` `[n, h]`, in the head's dtype, to `total`
    `[v, h]` of the wide dtype.
    """
    if not total.is_cuda or rows.dtype == total.dtype:
        total.addmm_(logits_gradient.t(), rows.to(total.dtype))
        return
    size = _rows_of_a_block(total, num_logits=logits_gradient.numel())
    for total_block, block in zip(total.split(size), logits_gradient.split(size, dim=1), strict=True):
        total_block += torch.mm(block.t().to(rows.dtype), rows, out_dtype=total.dtype)


def scaled(gradient: torch.Tensor, factor: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
    """Return `gradient` times the scalar `factor`, in `dtype`, rounded once.

    A GPU would round a factor without a dimension to the gradient's dtype first: in bfloat16 a division by
    the count of tokens would be off by up to 0.4 %, the same way in every element.
    """
    return torch.mul(gradient, factor.reshape(1), out=torch.empty_like(gradient, dtype=dtype))


def _multiply(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write `left` times `right`, a part of the head, into `out`, of the wide dtype."""
    if out.is_cuda and right.dtype != out.dtype:
        torch.mm(left.to(right.dtype), right, out_dtype=out.dtype, out=out)
    else:
        torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)


def _block_size(head: torch.Tensor, *, logits: torch.Tensor) -> int:
    """Return how many tokens of the vocabulary are multiplied at once: all, unless the head is widened."""
    if head.is_cuda or head.dtype == logits.dtype:
        return head.shape[0]
    return _rows_of_a_block(head, num_logits=logits.numel())


def _rows_of_a_block(head: torch.Tensor, *, num_logits: int) -> int:
    """Return how many rows of a head in the wide dtype take `1 / BLOCKS_PER_BUFFER` of the logits' memory."""
    return max(1, num_logits // (BLOCKS_PER_BUFFER * head.shape[1]))
