"""The training stages as a table of data: what learns, which losses count, whether a teacher is there.

Section 3.3 of the paper, and the baselines that it is compared with (section 5, appendix G). There is one
student loop for every row of the table.
"""

from dataclasses import dataclass, replace
from typing import Literal

from genrecal_mcore.config import TWO_HEAD_METHODS, Positions, PositionWeighting, RunConfig
from genrecal_mcore.losses import LossWeights

StudentLearns = Literal["nothing", "lora", "body", "all_but_vision_encoder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadComparison:
    """How the student's own next-token distribution is compared with the teacher's own."""

    divergence: str
    """A key of `losses.divergences.DIVERGENCES`."""
    positions: Positions
    skew: float
    weight: float
    """Of the divergence, beside the student's own cross entropy."""


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
    comparison: HeadComparison | None = None
    """Of both models' own heads: traditional distillation."""
    position_weighting: PositionWeighting = "tokens"
    """Of both paths."""
    caches_questions: bool = False
    """Whether the teacher's question rows are sent for a cache, although no loss may read them."""
    loss_weights: LossWeights = LossWeights()
    """Of both paths."""

    @property
    def has_recalibrator(self) -> bool:
        """Whether a Recalibrator takes part."""
        return self.student_path

    @property
    def with_questions(self) -> bool:
        """Whether the payload holds the teacher's question rows."""
        compares_all = self.comparison is not None and self.comparison.positions == "all"
        return self.teacher_path or compares_all or self.caches_questions


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
    ("sft", 2): Stage(student_learns="lora", student_ce=True),
    **{
        (method, 2): Stage(student_learns="lora", has_teacher=True, student_ce=True)
        for method in TWO_HEAD_METHODS
    },
    **{
        (method, 3): Stage(student_learns="all_but_vision_encoder", student_ce=True)
        for method in ("genrecal", "sft", *TWO_HEAD_METHODS)
    },
}


def stage_of(config: RunConfig) -> Stage:
    """Return the row of the table that a run asks for, with its switches applied."""
    stage = _STAGES[config.method, config.stage]
    loss = config.loss
    stage = replace(
        stage,
        position_weighting=loss.position_weighting,
        loss_weights=LossWeights(ce=loss.ce_weight, kl=loss.kl_weight),
    )
    if stage.student_learns == "lora" and config.student.lora is None:
        stage = replace(stage, student_learns="body")
    if config.teacher is not None:
        stage = replace(stage, caches_questions=config.teacher.writes_questions)
    if config.stage == 1:
        return replace(stage, teacher_path=config.recalibrator.regularizer)
    if config.stage == 2 and stage.has_recalibrator:
        return replace(stage, recalibrator_learns=config.recalibrator.learns_in_stage_2)
    if config.compares_heads:
        distillation = config.distillation
        comparison = HeadComparison(
            divergence=config.method,
            positions=distillation.positions,
            skew=distillation.skew,
            weight=loss.kl_weight,
        )
        return replace(stage, comparison=comparison)
    return stage


def stage_of_cache(config: RunConfig) -> Stage:
    """Return what a pass is that only writes the teacher's features: nothing learns, there is no loss."""
    assert config.teacher is not None
    return Stage(student_learns="nothing", has_teacher=True, caches_questions=config.teacher.writes_questions)
