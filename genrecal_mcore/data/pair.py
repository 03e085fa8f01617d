"""Refuses two models whose next-token distributions cannot be compared, because they read other tokens.

Figure 8(a) and appendix G of the paper: traditional distillation needs one tokenizer, and one way to cut
images too where every position is compared.
"""

from collections.abc import Iterable, Mapping

from genrecal_mcore.config import Positions, RunConfig
from genrecal_mcore.data.index import SampleFacts, SampleIndex
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.shared_tokens import SHARED_TOKENS, SharedTokens, answers_of
from genrecal_mcore.data.types import RenderedSample, Sample

_ENOUGH: dict[Positions, tuple[SharedTokens, ...]] = {"all": ("all",), "answers": ("all", "answers")}
_REMEDY = "method genrecal serves any pair"
NUM_SHOWN_IDS = 6


def check_vocabularies(method: str, processors: Mapping[str, ModelProcessor | None]) -> None:
    """Raise `ValueError` when an id names other tokens in the two tokenizers, or one that a head lacks.

    Rows that only pad a head to a round size name no token, and may differ in number.
    """
    teacher, student = _both(processors)
    of_student = {number: token for token, number in student.tokenizer.get_vocab().items()}
    of_teacher = {number: token for token, number in teacher.tokenizer.get_vocab().items()}
    shared = sorted(of_student.keys() & of_teacher.keys())
    other = next((number for number in shared if of_teacher[number] != of_student[number]), None)
    if other is not None:
        raise ValueError(
            f"method {method} needs one tokenizer, but token {other} is {of_teacher[other]!r} "
            f"in {teacher.folder} and {of_student[other]!r} in {student.folder}; {_REMEDY}"
        )
    num_rows = min(teacher.vocab_size, student.vocab_size)
    if shared[-1] >= num_rows:
        raise ValueError(
            f"method {method} compares the {num_rows} tokens that both heads have, but token {shared[-1]} "
            f"({of_student[shared[-1]]!r}) of {student.folder} is none of them; {_REMEDY}"
        )


def check_shared_tokens(
    config: RunConfig,
    processors: Mapping[str, ModelProcessor | None],
    samples: Iterable[tuple[Sample, SampleFacts]],
) -> None:
    """Raise `ValueError` for the first sample whose tokens differ where the run compares distributions."""
    positions = config.distillation.positions
    for sample, facts in samples:
        if facts.shared_tokens in _ENOUGH[positions]:
            continue
        teacher, student = _both(processors)
        renderings = [processor.render(sample, facts.image_sizes) for processor in (teacher, student)]
        remedy = _REMEDY
        if facts.shared_tokens == "answers":
            remedy = f"set distillation.positions to answers, where they are the same, or {_REMEDY}"
        raise ValueError(
            f"method {config.method} with distillation.positions {positions} needs the same tokens on both "
            f"sides, but in sample {sample.id!r} {difference(*renderings, positions=positions)} "
            f"({teacher.folder} and {student.folder}); {remedy}"
        )


def check_index_shares_tokens(
    config: RunConfig, processors: Mapping[str, ModelProcessor | None], index: SampleIndex
) -> None:
    """Raise `ValueError` as `check_shared_tokens` does, for the first such sample of an index."""
    enough = _ENOUGH[config.distillation.positions]
    number = index.first_sharing([kind for kind in SHARED_TOKENS if kind not in enough])
    if number is not None:
        check_shared_tokens(config, processors, [(index[number], index.facts(number))])


def difference(teacher: RenderedSample, student: RenderedSample, *, positions: Positions) -> str:
    """Say where two renderings that differ first do so."""
    if positions == "answers":
        pairs = list(zip(answers_of(teacher), answers_of(student), strict=True))
        number = next(number for number, (a, b) in enumerate(pairs) if a != b)
        a, b = (ids[:NUM_SHOWN_IDS] for ids in pairs[number])
        return f"answer {number + 1} begins with {a} for the teacher and {b} for the student"
    a, b = teacher.input_ids.tolist(), student.input_ids.tolist()
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return (
        f"the teacher reads {len(a)} tokens and the student {len(b)}, equal up to position {same} and then "
        f"{a[same : same + NUM_SHOWN_IDS]} and {b[same : same + NUM_SHOWN_IDS]}"
    )


def _both(processors: Mapping[str, ModelProcessor | None]) -> tuple[ModelProcessor, ModelProcessor]:
    teacher, student = processors["teacher"], processors["student"]
    assert teacher is not None and student is not None
    return teacher, student
