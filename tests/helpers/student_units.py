"""Makes units of text for a student module, without a dataset."""

from genrecal_mcore.config import RunConfig
from genrecal_mcore.profiling import units
from genrecal_mcore.training.student_module import StudentModule
from genrecal_mcore.training.student_unit import StudentUnit


def text_unit(config: RunConfig, module: StudentModule, *, num_tokens: int) -> StudentUnit:
    """Return `train.micro_batch_size` samples of as many tokens for both models, almost all of an answer."""
    lengths = (num_tokens,) * config.train.micro_batch_size
    return units.text_unit(module, lengths, answer_tokens=num_tokens - 2)
