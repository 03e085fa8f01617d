"""The three networks of GenRecal: the frozen teacher, the student and the Recalibrator.

This room builds modules and runs them forward. It computes no loss and moves nothing between meshes; see
`losses`, `transfer` and `training` for those.
"""

from genrecal_mcore.models.packed_attention import Packing, use_packed_attention
from genrecal_mcore.models.recalibrator import Recalibrator, initialise_recalibrator, with_embeddings
from genrecal_mcore.models.student import (
    add_lora,
    check_student_folder,
    checkpoint_layers,
    learn_all_but_vision_encoder,
    learn_body,
    load_student,
    merge_lora,
    student_body,
    student_embeddings,
    vision_encoder,
    vision_side,
)
from genrecal_mcore.models.teacher import (
    TeacherStage,
    load_teacher_embedding,
    load_teacher_head,
    load_teacher_stage,
)

__all__ = [
    "Packing",
    "Recalibrator",
    "TeacherStage",
    "add_lora",
    "check_student_folder",
    "checkpoint_layers",
    "initialise_recalibrator",
    "learn_all_but_vision_encoder",
    "learn_body",
    "load_student",
    "load_teacher_embedding",
    "load_teacher_head",
    "load_teacher_stage",
    "merge_lora",
    "student_body",
    "student_embeddings",
    "use_packed_attention",
    "vision_encoder",
    "vision_side",
    "with_embeddings",
]
