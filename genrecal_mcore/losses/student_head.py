"""Cross entropy through the student's own head, by torch's chunked `linear_cross_entropy`."""

import torch
import torch.nn.functional as F
from torch.nn import LinearCrossEntropyOptions

from genrecal_mcore.losses.frozen_head import rows_per_chunk


def student_head_loss(
    rows: torch.Tensor, labels: torch.Tensor, head_weight: torch.Tensor, *, memory_budget_bytes: int
) -> torch.Tensor:
    """Return the sum of the cross entropy of `rows` `[t, h]` through `head_weight` `[v, h]`, labels `[t]`.

    The head may learn. Raises `ValueError` when the budget holds not even one row of logits.
    """
    chunk = rows_per_chunk(head_weight.shape[0], memory_budget_bytes)
    # The chunked kernel pays off only when there is more than one chunk.
    options = LinearCrossEntropyOptions(batch_chunk_size=chunk) if chunk < len(labels) else None
    return F.linear_cross_entropy(rows, head_weight, labels, reduction="sum", options=options).float()
