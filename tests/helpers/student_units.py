"""Makes units of text for a student module, without a dataset."""

from dataclasses import replace

from genrecal_mcore.config import RunConfig
from genrecal_mcore.profiling import units
from genrecal_mcore.training.answer_inputs import AnswerInputs
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.student_unit import StudentUnit


def text_unit(config: RunConfig, module: StudentModule, *, num_tokens: int) -> StudentUnit:
    """Return `train.micro_batch_size` samples of as many tokens for both models, almost all of an answer."""
    lengths = (num_tokens,) * config.train.micro_batch_size
    recalibrator, stage = config.recalibrator, module.stage
    own_answers = recalibrator.student_answers
    unit = units.text_unit(module, lengths, answer_tokens=num_tokens - 2, own_answers=own_answers)
    if unit.teacher is None or recalibrator.answer_input != "embeddings":
        return unit
    head = module.teacher_head
    table = AnswerInputs(embedding=head, rate=1.0, seed=0, with_questions=stage.with_questions)
    return replace(unit, answers=table.of_unit(unit.teacher, 0, head.device))
