"""Compares a memory plan with the memory of a GPU and says what to change where it does not fit."""

from collections.abc import Iterator, Sequence

from genrecal_mcore.config import RunConfig
from genrecal_mcore.planning.parts import Part, RankKind
from genrecal_mcore.planning.table import bytes_text

_REMEDIES = {
    Part.LANGUAGE_BODY: "raise mesh.teacher.pp or mesh.teacher.tp",
    Part.VISION: "leave fewer layers beside the tower, by mesh.teacher.layers_per_stage or mesh.teacher.pp",
    Part.STUDENT_FROZEN: "raise mesh.student.dp",
    Part.STUDENT_LEARNING: "raise mesh.student.dp",
    Part.RECALIBRATOR: "raise mesh.student.dp",
    Part.GRADIENTS: "raise mesh.student.dp",
    Part.OPTIMIZER: "raise mesh.student.dp",
    Part.LOSS: "lower loss.memory_budget_mib",
}
"""What makes a part smaller, where no other key decides."""

_NO_KEY = "no key makes it smaller, take a smaller model or a larger GPU"


def check_fits(kinds: Sequence[RankKind], config: RunConfig, *, available_bytes: int) -> None:
    """Raise `ValueError` naming every kind of rank that needs more than `available_bytes`."""
    problems = [
        _problem(kind, config, available_bytes) for kind in kinds if kind.needed_bytes > available_bytes
    ]
    if problems:
        raise ValueError("\n       ".join(problems))


def _problem(kind: RankKind, config: RunConfig, available_bytes: int) -> str:
    needs = f"{kind.label}: needs {bytes_text(kind.needed_bytes)}, a GPU has {bytes_text(available_bytes)}"
    if kind.loading_bytes > kind.total_bytes:
        return f"{needs}; most is needed while the whole model is loaded, before it is sharded: {_NO_KEY}"
    part = kind.largest_part
    changes = " or ".join(remedies(part, config))
    return f"{needs}; the largest part is {part} with {bytes_text(kind.parts[part])}: {changes}"


def remedies(part: Part, config: RunConfig) -> Iterator[str]:
    """Yield what to change in a configuration to make a part smaller."""
    train = config.train
    if part == Part.ACTIVATIONS:
        yield from _activation_remedies(config)
    elif part == Part.PIPELINE:
        yield f"lower {_unit_key(config)} or data.max_tokens"
    elif part == Part.TRANSFER:
        yield f"lower transfer.prefetch or {_unit_key(config)}"
    elif part == Part.WHOLE_GRADIENTS and config.may_accumulate and not train.reduce_every_microbatch:
        yield "set train.reduce_every_microbatch to true"
    elif part in (Part.STUDENT_FROZEN, Part.GATHERED_WEIGHTS) and not train.reshard_after_forward:
        yield "set train.reshard_after_forward to true"
    else:
        yield _REMEDIES.get(part, _NO_KEY)


def _activation_remedies(config: RunConfig) -> Iterator[str]:
    if config.stage != 1 and not config.train.gradient_checkpointing:
        yield "set train.gradient_checkpointing to true"
    if config.train.checkpointed_layers is not None:
        yield "leave out train.checkpointed_layers"
    if config.most_unit_tokens > config.data.max_tokens:
        yield f"lower {_unit_key(config)}"
    yield "lower data.max_tokens"


def _unit_key(config: RunConfig) -> str:
    """Return the key that decides how many tokens a microbatch has."""
    return "train.micro_batch_size" if config.train.micro_batch_tokens is None else "train.micro_batch_tokens"
