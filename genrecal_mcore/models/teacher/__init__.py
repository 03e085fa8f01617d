"""The frozen teacher on megatron-core: one `TeacherStage` a rank, built from a converted checkpoint folder.

Refuses to train and holds no head on its ranks. Start with `stage`, then `language_body`.
"""

from genrecal_mcore.models.teacher.embedding import load_teacher_embedding
from genrecal_mcore.models.teacher.head import load_teacher_head
from genrecal_mcore.models.teacher.language_body import TeacherLanguageBody
from genrecal_mcore.models.teacher.stage import TeacherStage, load_teacher_stage

__all__ = [
    "TeacherLanguageBody",
    "TeacherStage",
    "load_teacher_embedding",
    "load_teacher_head",
    "load_teacher_stage",
]
