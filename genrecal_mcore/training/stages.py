"""The training stages as a table of data: what learns, which losses count, whether a teacher is there.

Section 3.3 of the paper. There is one student loop for every row of the table.
"""

from dataclasses import dataclass, replace
from typing import Literal

from genrecal_mcore.config import RunConfig

StudentLearns = Literal["nothing", "lora", "all_but_vision_encoder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What one stage of one method trains, and on which losses."""

    student_learns: StudentLearns
    has_teacher: bool = False
    recalibrator_learns: bool = False
    student_path: bool = False
    """CE and KL of `[z_qs, pre(z_al)]` through the teacher's head (Alg. 1 and 3)."""
    teacher_path: bool = False
    """CE and KL of `[pre(z_ql), pre(z_al)]`: the regularizer (Alg. 2)."""
    student_ce: bool = False
    """CE of the student's own head on its own answer tokens."""

    @property
    def with_questions(self) -> bool:
        """Whether the payload holds the teacher's question rows: only the regularizer reads them."""
        return self.teacher_path


_STAGES = {
    ("genrecal", 1): Stage(
        student_learns="nothing",
        has_teacher=True,
        recalibrator_learns=True,
        student_path=True,
        teacher_path=True,
    ),
    ("genrecal", 2): Stage(
        student_learns="lora", has_teacher=True, recalibrator_learns=True, student_path=True, student_ce=True
    ),
    ("genrecal", 3): Stage(student_learns="all_but_vision_encoder", student_ce=True),
    ("sft", 2): Stage(student_learns="lora", student_ce=True),
    ("sft", 3): Stage(student_learns="all_but_vision_encoder", student_ce=True),
}


def stage_of(config: RunConfig) -> Stage:
    """Return the row of the table that a run asks for, with its switches applied."""
    stage = _STAGES[config.method, config.stage]
    if config.stage == 1 and not config.recalibrator.regularizer:
        return replace(stage, teacher_path=False)
    if config.stage == 2 and not config.recalibrator.learns_in_stage_2:
        return replace(stage, recalibrator_learns=False)
    return stage
