"""The sums that a unit of work adds to a step: of its losses, and of gradients where a step measures them."""

import torch

from genrecal_mcore.data import RecalibratorLayout

LOSS_TERMS = (
    "loss",
    "ce_recal_boundary",
    "ce_recal_rest",
    "kl_recal_boundary",
    "kl_recal_rest",
    "ce_reg",
    "kl_reg",
    "ce_student",
    "kl_student",
)
GRADIENT_SQUARES = ("grad_square_z_qs_boundary", "grad_square_z_qs_rest")
"""Of the gradient at the student's question rows, from each share of the recalibrated loss."""
SUM_NAMES = (*LOSS_TERMS, *GRADIENT_SQUARES)
"""Order of the sums that the module returns."""


class UnitSums:
    """A unit's sums by name, detached."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(len(SUM_NAMES), dtype=torch.float64, device=device)
        """In the order of `SUM_NAMES`."""

    def add(self, name: str, values: torch.Tensor) -> None:
        """Add all of `values` to a sum."""
        self.values[SUM_NAMES.index(name)] += values.detach().sum()

    def add_gradient_squares(self, rows: torch.Tensor, layout: RecalibratorLayout) -> torch.Tensor:
        """Return the student rows `[2n, h_s]` of a layout with shares apart; the backward pass will add what
        reaches those of questions: once from the boundary, once from the rest.
        """
        rows = rows if rows.requires_grad else rows.detach().requires_grad_()
        questions = layout.source[layout.question_rows].chunk(2)

        def add(gradient: torch.Tensor) -> None:
            for name, of_share in zip(GRADIENT_SQUARES, questions, strict=True):
                self.add(name, gradient[of_share].float().square())

        rows.register_hook(add)
        return rows
