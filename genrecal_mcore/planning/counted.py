"""What a plan counts once for every mesh and microbatch: the parameters and sizes of both sides' modules."""

from dataclasses import dataclass

from genrecal_mcore.config import LanguageBodySpec, RunConfig
from genrecal_mcore.native import model_config
from genrecal_mcore.planning.models import PlannedModels, PlannedTeacher
from genrecal_mcore.planning.on_meta import student_module_on_meta, student_tensors, vision_parameters
from genrecal_mcore.planning.shapes import (
    StudentShapes,
    TeacherShapes,
    shape_of_spec,
    shape_of_text_config,
    vision_shape,
)
from genrecal_mcore.planning.sizes import StudentTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedTeacher:
    """A teacher's sizes and parameters."""

    language: LanguageBodySpec
    shapes: TeacherShapes
    vision_parameters: int

    @property
    def head_bytes(self) -> int:
        """Bytes of the head, of which every student rank holds a copy."""
        return self.language.vocab_size * self.language.hidden_size * self.shapes.element_size


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedStudent:
    """A student side's sizes and parameters."""

    shapes: StudentShapes
    vocab_size: int
    tensors: tuple[StudentTensor, ...]
    """The student's and the Recalibrator's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CountedModels:
    """Both sides of a run."""

    student: CountedStudent
    teacher: CountedTeacher | None
    """None where no teacher takes part."""


def count_models(config: RunConfig, models: PlannedModels) -> CountedModels:
    """Count the modules that a run builds; meshes, microbatches and steps change nothing of them.

    How they are sharded follows from `train.reshard_after_forward`.
    """
    module = student_module_on_meta(config, models)
    text = module.student.config.get_text_config()
    shapes = StudentShapes(
        body=shape_of_text_config(text),
        vision=vision_shape(module.student.config),
        element_size=models.student.element_size,
        teacher_hidden_size=models.teacher.language.hidden_size if models.teacher else None,
    )
    return CountedModels(
        student=CountedStudent(
            shapes=shapes, vocab_size=text.vocab_size, tensors=student_tensors(module, config)
        ),
        teacher=count_teacher(models.teacher) if models.teacher else None,
    )


def count_teacher(teacher: PlannedTeacher) -> CountedTeacher:
    """Count a teacher."""
    model = teacher.model
    shapes = TeacherShapes(
        body=shape_of_spec(teacher.language),
        vision=vision_shape(model_config(model.native_config, model.family)),
        element_size=model.element_size,
    )
    return CountedTeacher(
        language=teacher.language, shapes=shapes, vision_parameters=vision_parameters(model)
    )
