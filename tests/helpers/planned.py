"""Configurations and models for tests of plans: tiny folders, and published models at full size."""

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from genrecal_mcore.config import RunConfig
from genrecal_mcore.native import build_model
from genrecal_mcore.planning import PlannedModels, named_model, named_teacher
from tests.helpers.first_step import raw_config


def run_of_stage(
    folders: dict[str, Path], stage: int, *, method: str = "genrecal", **changes: dict[str, Any]
) -> RunConfig:
    """Return a run over tiny folders; `changes` update sections. Nothing says which run it starts from."""
    raw = raw_config(folders, Path("run"), stage=stage, method=method)
    raw["mesh"] = {"teacher": {}, "student": {"dp": 1}}
    if stage == 3:
        del raw["teacher"], raw["mesh"]["teacher"]
    for section, values in changes.items():
        raw[section] = raw.get(section, {}) | values
    return RunConfig.model_validate(raw)


def published_pair(teacher: str, student: str, *, dtype: str = "bfloat16") -> PlannedModels:
    """Return two published models by their names."""
    return PlannedModels(
        student=named_model(student, dtype=dtype), teacher=named_teacher(teacher, dtype=dtype)
    )


def published_tower(name: str) -> PreTrainedModel:
    """Return two layers of a published tower in their true width, before a body of no size."""
    planned = named_model(name, dtype="float32")
    config = copy.deepcopy(dict(planned.native_config))
    text, vision = config.get("text_config", config), config["vision_config"]
    text |= {"hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 151936}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    vision |= {"depth": 2, "num_hidden_layers": 2}
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [1]
    return build_model(config, planned.family).requires_grad_(False)
