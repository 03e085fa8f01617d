"""What a plan knows of the models of a run: configs and sizes, no weights.

Today they come from folders; whatever else names a model need only make a `PlannedModel`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrecal_mcore.config import Family, LanguageBodySpec, RunConfig, load_teacher_manifest
from genrecal_mcore.layouts import open_checkpoint, read_json_object

ELEMENT_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element, by name of the dtype."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModel:
    """A model as its native config describes it."""

    family: Family
    native_config: Mapping[str, Any]
    dtype: str
    """Of its frozen weights and its computation."""

    @property
    def element_size(self) -> int:
        """Bytes of an element of `dtype`."""
        return ELEMENT_SIZES[self.dtype]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTeacher:
    """A teacher: its language body has sizes of its own, which megatron-core builds it from."""

    model: PlannedModel
    language: LanguageBodySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedModels:
    """The models of a run."""

    student: PlannedModel
    teacher: PlannedTeacher | None
    """None where no teacher takes part."""


def models_in_folders(config: RunConfig) -> PlannedModels:
    """Read the models that a run names from their folders; raises `ValueError` for a damaged one."""
    try:
        checkpoint = open_checkpoint(config.student.checkpoint)
    except ValueError as error:
        raise ValueError(f"student.checkpoint: {error}") from None
    student = PlannedModel(
        family=checkpoint.family, native_config=checkpoint.config, dtype=config.train.dtype
    )
    if config.teacher is None:
        return PlannedModels(student=student, teacher=None)
    folder = config.teacher.checkpoint
    manifest = load_teacher_manifest(folder)
    native_config = read_json_object(folder / "vision" / "config.json")
    model = PlannedModel(family=manifest.family, native_config=native_config, dtype=manifest.dtype)
    return PlannedModels(student=student, teacher=PlannedTeacher(model=model, language=manifest.language))
