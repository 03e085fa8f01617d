"""What stands for the answers in the Recalibrator's input where it is not the teacher's features.

Beyond the paper: past the first answer token z_al already is what the teacher's head reads, so the
Recalibrator can pass it on and ignore the student. A token's input embedding says which token it is, no more.
"""

from dataclasses import dataclass

import torch

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import Microbatch, replaced_answer_rows
from genrecal_mcore.models import load_teacher_embedding


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerEmbeddings:
    """Rows of a unit's payload that embeddings stand for, on its device."""

    rows: torch.Tensor
    """`[k]`."""
    embeddings: torch.Tensor
    """`[k, h_t]`, as they are in the teacher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerInputs:
    """Looks up the embeddings of the answers' tokens."""

    embedding: torch.Tensor
    """`[v, h_t]` in host memory."""
    rate: float
    """Share of the answers' rows; 1 is all of them."""
    seed: int
    with_questions: bool
    """Of the payload."""

    def of_unit(self, teacher: Microbatch, step: int, device: torch.device) -> AnswerEmbeddings:
        """Return what stands for the answers of a unit, from the teacher's tokens."""
        chosen = replaced_answer_rows(
            teacher, with_questions=self.with_questions, rate=self.rate, seed=self.seed, step=step
        )
        return AnswerEmbeddings(
            rows=chosen.rows.to(device), embeddings=self.embedding[chosen.token_ids].to(device)
        )


def answer_inputs_of(config: RunConfig, *, with_questions: bool) -> AnswerInputs | None:
    """Return the source of a run's embeddings; None where the answers are the teacher's features."""
    recalibrator = config.recalibrator
    if recalibrator.answer_input == "features":
        return None
    assert config.teacher is not None
    return AnswerInputs(
        embedding=load_teacher_embedding(config.teacher.checkpoint),
        rate=recalibrator.masked_rate if recalibrator.answer_input == "masked" else 1.0,
        seed=config.train.seed,
        with_questions=with_questions,
    )
