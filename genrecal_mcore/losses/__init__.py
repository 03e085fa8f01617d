"""Losses through a vocabulary head, as sums over rows: division by global counts is the caller's.

Start with `frozen_head`, then `two_heads`; `reference` says the same in plain PyTorch.
"""

from genrecal_mcore.losses.frozen_head import FrozenHeadLoss, LossWeights, frozen_head_loss
from genrecal_mcore.losses.reference import reference_frozen_head_loss, reference_two_head_loss
from genrecal_mcore.losses.student_head import student_head_loss
from genrecal_mcore.losses.two_heads import (
    NO_LABEL,
    DistilledRows,
    TwoHeadLoss,
    TwoHeadObjective,
    two_head_loss,
)

__all__ = [
    "NO_LABEL",
    "DistilledRows",
    "FrozenHeadLoss",
    "LossWeights",
    "TwoHeadLoss",
    "TwoHeadObjective",
    "frozen_head_loss",
    "reference_frozen_head_loss",
    "reference_two_head_loss",
    "student_head_loss",
    "two_head_loss",
]
