"""The same losses in plain fp32 PyTorch with all logits at once: what the fast paths are tested against."""

import torch
import torch.nn.functional as F

from genrecal_mcore.losses.two_heads import NO_LABEL, DistilledRows


def reference_frozen_head_loss(
    recalibrated: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, head: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CE `[t]` and KL `[t]` for rows `[t, h]`, labels `[t]` and a head `[v, h]`, with gradients."""
    log_r = F.log_softmax(recalibrated @ head.t(), dim=-1)
    log_l = F.log_softmax(teacher @ head.t(), dim=-1)
    ce = F.nll_loss(log_r, labels, reduction="none")
    kl = F.kl_div(log_r, log_l, log_target=True, reduction="none").sum(-1)
    return ce, kl


def reference_two_head_loss(
    rows: DistilledRows,
    student_head: torch.Tensor,
    teacher_head: torch.Tensor,
    *,
    divergence: str,
    skew: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return CE `[t]`, 0 without a label, and the divergence `[t]`, over the rows both heads have, with
    gradients.
    """
    size = min(len(student_head), len(teacher_head))
    log_q = F.log_softmax(rows.student @ student_head[:size].t(), dim=-1)
    log_p = F.log_softmax(rows.teacher @ teacher_head[:size].t(), dim=-1)
    q, p = log_q.exp(), log_p.exp()
    of_name = {
        "kl": p * (log_p - log_q),
        "reverse_kl": q * (log_q - log_p),
        "skew_reverse_kl": q * (log_q - ((1 - skew) * p + skew * q).log()),
    }
    ce = F.nll_loss(log_q, rows.labels, reduction="none", ignore_index=NO_LABEL)
    return ce, of_name[divergence].sum(-1)
