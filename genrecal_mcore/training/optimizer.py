"""AdamW over what learns, and the learning rate as a function of the step."""

import logging

import torch

from genrecal_mcore.config import TrainConfig

logger = logging.getLogger(__name__)


def learning_rate(step: int, train: TrainConfig) -> float:
    """Return the rate of a step: linear from `lr` at step 0 to `lr_final` at the last (section 4.1(c))."""
    progress = step / max(1, train.steps - 1)
    return train.lr + (train.lr_final - train.lr) * progress


def build_optimizer(parameters: list[torch.nn.Parameter], train: TrainConfig) -> torch.optim.AdamW:
    """Return torch's fused AdamW, one kernel for all parameters on CPU and CUDA."""
    logger.info("optimizer: torch AdamW, fused, %d tensors", len(parameters))
    return torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True)
