"""Divergences between the teacher's next-token distribution p and the student's q, with their gradients.

Every function takes log q and log p `[c, v]` and room for one more matrix of that size, and overwrites all
three. It returns the divergence `[c]`, its gradient for the student's logits `[c, v]`, and q `[c, v]`.
"""

import math
from collections.abc import Callable

import torch

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Divergence = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], Found]


def forward_kl_(log_q: torch.Tensor, log_p: torch.Tensor, room: torch.Tensor, skew: float) -> Found:
    """Return KL(p || q) and its gradient q - p; `skew` plays no part."""
    del skew
    p = torch.exp(log_p, out=room)
    values = torch.linalg.vecdot(p, log_p.sub_(log_q))
    q = log_q.exp_()
    return values, torch.sub(q, p, out=p), q


def reverse_kl_(log_q: torch.Tensor, log_p: torch.Tensor, room: torch.Tensor, skew: float) -> Found:
    """Return KL(q || p) and its gradient q (d - sum q d), d = log q - log p; `skew` plays no part."""
    del skew
    q = torch.exp(log_q, out=room)
    d = log_q.sub_(log_p)
    values = torch.linalg.vecdot(q, d)
    return values, d.sub_(values[:, None]).mul_(q), q


def skew_reverse_kl_(log_q: torch.Tensor, log_p: torch.Tensor, room: torch.Tensor, skew: float) -> Found:
    """Return KL(q || m) with m = (1 - a) p + a q, a the skew, and its gradient.

    With d = log q - log m the gradient is q (g - sum q g), g = d - a exp(d): m depends on q too. Ko et al.
    (2024), "DistiLLM" (arXiv 2402.03898), section 3.1; `skewed_reverse_kl` in their `distillm/losses.py`.
    """
    skewed_q = torch.add(log_q, math.log(skew), out=room)
    # In logarithms: where q and p both underflow, m would be 0.
    log_m = torch.logaddexp(log_p.add_(math.log1p(-skew)), skewed_q, out=log_p)
    q = torch.exp(log_q, out=room)
    d = log_q.sub_(log_m)
    values = torch.linalg.vecdot(q, d)
    g = d.sub_(torch.exp(d, out=log_m), alpha=skew)
    return values, g.sub_(torch.linalg.vecdot(q, g)[:, None]).mul_(q), q


DIVERGENCES: dict[str, Divergence] = {
    "kl": forward_kl_,
    "reverse_kl": reverse_kl_,
    "skew_reverse_kl": skew_reverse_kl_,
}
"""By the name of the method that uses it."""
