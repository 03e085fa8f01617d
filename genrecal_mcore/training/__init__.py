"""Trains: the stages as a table, the student loop, the teacher loop, checkpoints, export.

Start with `stages`, then `student_loop` and `teacher_loop`; `run` puts a rank into its role.
"""

from genrecal_mcore.training.cache_pass import write_feature_cache
from genrecal_mcore.training.checkpoint import is_finished
from genrecal_mcore.training.ending import EXIT_PREEMPTED, RunPreempted
from genrecal_mcore.training.export import export_student, exported_student
from genrecal_mcore.training.run import train
from genrecal_mcore.training.stages import Stage, stage_of

__all__ = [
    "EXIT_PREEMPTED",
    "RunPreempted",
    "Stage",
    "export_student",
    "exported_student",
    "is_finished",
    "stage_of",
    "train",
    "write_feature_cache",
]
