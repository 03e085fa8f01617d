"""The run that a plan without a configuration is about: the paper's values, placeholders for files."""

from collections.abc import Sequence
from typing import Any

from genrecal_mcore.config import DataConfig, RunConfig, run_config_of
from genrecal_mcore.data import batch_shape

PREFETCH = 4
SAMPLES = {1: 9_000_000, 2: 9_000_000, 3: 6_000_000}
SAMPLES_PER_STEP = {1: 16384, 2: 8192, 3: 16384}
"""Of the paper, by stage: section 4.1(b) and (c)."""


def planned_run(
    *, stage: int, teacher: str | None, student: str, max_tokens: int, overrides: Sequence[str]
) -> RunConfig:
    """Return a run of models by name, with at least the default of `data.max_tokens`.

    Raises `ConfigError` for overrides that cannot be.
    """
    max_tokens = max(max_tokens, DataConfig.model_fields["max_tokens"].default)
    raw: dict[str, Any] = {
        "stage": stage,
        "run": {"dir": "runs/planned"},
        "mesh": {"student": {"dp": 1}},
        "train": {"steps": 1, "micro_batch_size": 1},
        "transfer": {"prefetch": PREFETCH},
        "student": {"checkpoint": student},
        "data": {"sources": [{"path": "data.jsonl", "images": "images"}], "max_tokens": max_tokens},
    }
    if teacher is not None:
        raw["teacher"] = {"checkpoint": teacher}
        raw["mesh"]["teacher"] = {}
    is_baseline = any(key.startswith("method=") and key != "method=genrecal" for key in overrides)
    if stage == 3 or stage == 2 and not is_baseline:
        raw["init_from"] = "runs/before"
    return run_config_of(raw, overrides, where="the plan")


def samples_of_run(config: RunConfig) -> int:
    """Return the samples that a run consumes."""
    return config.train.steps * batch_shape(config).samples_per_step
