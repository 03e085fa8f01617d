"""The same losses in plain fp32 PyTorch with all logits at once: what the fast path is tested against."""

import torch
import torch.nn.functional as F


def reference_frozen_head_loss(
    recalibrated: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, head: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CE `[t]` and KL `[t]` for rows `[t, h]`, labels `[t]` and a head `[v, h]`, with gradients."""
    log_r = F.log_softmax(recalibrated @ head.t(), dim=-1)
    log_l = F.log_softmax(teacher @ head.t(), dim=-1)
    ce = F.nll_loss(log_r, labels, reduction="none")
    kl = F.kl_div(log_r, log_l, log_target=True, reduction="none").sum(-1)
    return ce, kl
