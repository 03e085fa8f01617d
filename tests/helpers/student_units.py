"""Makes units of text for a student module, without a dataset."""

import torch

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import Microbatch, payload_rows
from genrecal_mcore.training.answer_inputs import AnswerInputs
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.student_unit import StepCounts, StudentUnit


def text_unit(config: RunConfig, module: StudentModule, *, num_tokens: int) -> StudentUnit:
    """Return `train.micro_batch_size` samples of as many tokens for both models, almost all of an answer."""
    batch_size, answers = config.train.micro_batch_size, ((2, num_tokens),)
    ends = (tuple(range(1, num_tokens - 1)),)
    ids = torch.randint(3, 200, (1, batch_size * num_tokens), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(num_tokens).repeat(batch_size)[None]
    has_mrope = "mrope_section" in module.student.config.get_text_config().rope_parameters
    student, teacher = (
        Microbatch(
            sample_ids=tuple(map(str, range(batch_size))),
            input_ids=ids,
            position_ids=given,
            lengths=(num_tokens,) * batch_size,
            answer_spans=(answers,) * batch_size,
            vision=None,
            text_ends=(ends,) * batch_size if config.recalibrator.student_answers else None,
        )
        for given in (positions.expand(3, -1, -1) if has_mrope else positions, positions)
    )
    payload = answers = None
    if module.stage.has_teacher:
        rows = payload_rows(teacher.answer_spans, teacher.lengths, with_questions=module.stage.with_questions)
        head = module.teacher_head
        payload = torch.randn(len(rows), head.shape[1], dtype=head.dtype)
        if config.recalibrator.answer_input == "embeddings":
            table = AnswerInputs(embedding=head, rate=1.0, seed=0, with_questions=module.stage.with_questions)
            answers = table.of_unit(teacher, 0, head.device)
    tokens = batch_size * num_tokens
    counts = StepCounts(
        teacher_answer_tokens=tokens,
        student_answer_tokens=tokens,
        teacher_tokens=tokens,
        num_answers=batch_size,
    )
    return StudentUnit(
        student=student,
        teacher=teacher if payload is not None else None,
        payload=payload,
        counts=counts,
        answers=answers,
    )
