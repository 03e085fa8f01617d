"""Runs a whole training run on a pool rank."""

from typing import Any

from genrecal_mcore.config import RunConfig
from genrecal_mcore.training import train


def train_run(raw_config: dict[str, Any], *, resume: bool = False) -> None:
    """Train as `genrecal train` does, in the process group that the pool has made."""
    train(RunConfig.model_validate(raw_config), resume=resume)
