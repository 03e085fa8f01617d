"""Configurations and models for tests of plans: tiny folders, and published models at full size."""

from pathlib import Path
from typing import Any

from genrecal_mcore.config import Family, RunConfig
from genrecal_mcore.layouts import language_body_spec
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS
from genrecal_mcore.planning import PlannedModel, PlannedModels, PlannedTeacher
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


def qwen2_vl_models(teacher: str, student: str, *, dtype: str = "bfloat16") -> PlannedModels:
    """Return published models of the Qwen2-VL family, whose config is the native one."""
    models = {
        name: PlannedModel(family=Family.QWEN2_VL, native_config=PUBLISHED_MODELS[name].config, dtype=dtype)
        for name in (teacher, student)
    }
    language = language_body_spec(PUBLISHED_MODELS[teacher].config)
    return PlannedModels(
        student=models[student], teacher=PlannedTeacher(model=models[teacher], language=language)
    )
