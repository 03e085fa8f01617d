"""What a plan knows of the models of a run, from folders or names: configs and sizes, no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecal_mcore.config import (
    Family,
    LanguageBodySpec,
    RunConfig,
    family_of_hf_config,
    load_teacher_manifest,
)
from genrecal_mcore.config.teacher_manifest import MANIFEST_NAME
from genrecal_mcore.layouts import (
    language_body_spec,
    native_config,
    native_config_of,
    open_checkpoint,
    read_json_object,
)
from genrecal_mcore.layouts.published_models import published_model

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
    return PlannedModels(student=student, teacher=converted_teacher(config.teacher.checkpoint))


def converted_teacher(folder: Path) -> PlannedTeacher:
    """Read a teacher from a folder that `checkpoint_tools/hf2mcore.py` wrote."""
    manifest = load_teacher_manifest(folder)
    config = read_json_object(folder / "vision" / "config.json")
    model = PlannedModel(family=manifest.family, native_config=config, dtype=manifest.dtype)
    return PlannedTeacher(model=model, language=manifest.language)


def named_teacher(name: str, *, dtype: str) -> PlannedTeacher:
    """Return a teacher by a published model's name, or from a folder, converted or as published."""
    if (Path(name) / MANIFEST_NAME).is_file():
        return converted_teacher(Path(name))
    model = named_model(name, dtype=dtype)
    return PlannedTeacher(model=model, language=language_body_spec(dict(model.native_config)))


def named_model(name: str, *, dtype: str) -> PlannedModel:
    """Return a model by its published name, or from a Hugging Face folder, whose weights need not be there.

    Raises `ValueError` for a folder that describes no known model, and naming the nearest published name.
    """
    if Path(name).is_dir():
        config = native_config_of(Path(name))
    else:
        published = published_model(name)
        config = native_config(published.config, image_token_id=published.image_token_id)
    return PlannedModel(family=family_of_hf_config(config, where=name), native_config=config, dtype=dtype)
