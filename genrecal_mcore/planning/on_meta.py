"""Builds the true modules on the meta device, where nothing is allocated, to count what they hold."""

import torch

from genrecal_mcore.config import RunConfig
from genrecal_mcore.native import build_model
from genrecal_mcore.planning.models import PlannedModel, PlannedModels
from genrecal_mcore.planning.sizes import ROOT, StudentTensor, layer_unit
from genrecal_mcore.training.stages import stage_of
from genrecal_mcore.training.student_assembly import (
    assemble_student_module,
    new_recalibrator,
    recalibrator_layers,
    student_layers,
    whole_parameters,
)
from genrecal_mcore.training.student_module import StudentModule

LANGUAGE_PREFIXES = ("model.language_model.", "lm_head.")
"""Of a native model's names; the rest are the vision tower and the projector."""


def vision_parameters(model: PlannedModel) -> int:
    """Return the parameters of tower and projector, which lie whole on each rank that has them."""
    with torch.device("meta"):
        built = build_model(model.native_config, model.family)
    return sum(p.numel() for name, p in built.named_parameters() if not name.startswith(LANGUAGE_PREFIXES))


def student_module_on_meta(config: RunConfig, models: PlannedModels) -> StudentModule:
    """Return the module that `training.student_assembly.build_student_module` gives, without weights."""
    recalibrator = head = None
    with torch.device("meta"):
        student = build_model(models.student.native_config, models.student.family)
        if models.teacher is not None:
            language, dtype = models.teacher.language, getattr(torch, models.teacher.model.dtype)
            head = torch.empty(language.vocab_size, language.hidden_size, dtype=dtype)
            if stage_of(config).has_recalibrator:
                recalibrator = new_recalibrator(config, student, teacher_hidden_size=language.hidden_size)
    student = student.to(getattr(torch, models.student.dtype)).requires_grad_(False)
    return assemble_student_module(config, student, recalibrator, head)


def student_tensors(module: StudentModule, config: RunConfig) -> tuple[StudentTensor, ...]:
    """Return every parameter of a student module, a tied one once, and how `shard_` shards it."""
    layers = enumerate([*student_layers(module), *recalibrator_layers(module)])
    unit_of: dict[int, str | None] = {
        id(p): layer_unit(number) for number, layer in layers for p in layer.parameters()
    }
    unit_of |= dict.fromkeys(map(id, whole_parameters(module, config)))
    return tuple(
        StudentTensor(
            name=name,
            shape=tuple(p.shape),
            element_size=p.element_size(),
            learns=p.requires_grad,
            unit=unit_of.get(id(p), ROOT),
        )
        for name, p in module.named_parameters()
    )
