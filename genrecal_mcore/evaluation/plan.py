"""What there is to ask of one benchmark: read by one rank, checked by all, cut into batches."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genrecal_mcore.data import BrokenSample, Ranks
from genrecal_mcore.evaluation.ahead import map_ahead
from genrecal_mcore.evaluation.batches import plan_batches
from genrecal_mcore.evaluation.files import BenchmarkFile, Reading, read_questions
from genrecal_mcore.evaluation.model_inputs import ModelInputs
from genrecal_mcore.evaluation.question import LeftOut, Question
from genrecal_mcore.evaluation.results import begin_or_go_on, read_parts
from genrecal_mcore.evaluation.settings import AskedModel, EvaluationSettings, settings_record
from genrecal_mcore.observability import CountLine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedFile:
    """A file whose questions can all be asked."""

    file: BenchmarkFile
    reading: Reading
    lengths: tuple[int, ...]
    """Tokens of each question's prompt."""
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkPlan:
    """One benchmark's batches; the same on all ranks."""

    checked: CheckedFile
    folder: Path
    batches: Sequence[Sequence[Question]]
    finished: frozenset[int]
    """Numbers of the batches that an earlier start has answered."""

    @property
    def remaining(self) -> list[int]:
        """Return the numbers of the batches that are still to be answered, longest prompts first."""
        return [number for number in range(len(self.batches)) if number not in self.finished]


def check_file(
    file: BenchmarkFile, inputs: ModelInputs, *, settings: EvaluationSettings, ranks: Ranks
) -> CheckedFile:
    """Read a file and prepare each of its questions once, so that none fails later (collective).

    Raises `ValueError` when too many rows are broken.
    """
    reading = ranks.broadcast_from_first(lambda: read_questions(file))
    max_new_tokens = settings.max_new_tokens or reading.benchmark.max_new_tokens
    measure = partial(_measure, inputs=inputs, max_new_tokens=max_new_tokens)
    share = ranks.share(reading.questions)
    measured = []
    with CountLine(title=f"{file.name}: checks", total=len(share), is_shown=ranks.rank == 0) as line:
        for length in map_ahead(measure, share, num_workers=settings.num_workers):
            measured.append(length)
            line.advance()
    outcomes = ranks.all_gather_shares(measured)
    checked = reading.without([outcome for outcome in outcomes if isinstance(outcome, LeftOut)])
    checked.check_share(str(file.path), max_share=settings.max_skipped_share)
    length_of = dict(zip((question.index for question in reading.questions), outcomes, strict=True))
    return CheckedFile(
        file=file,
        reading=checked,
        lengths=tuple(length_of[question.index] for question in checked.questions),
        max_new_tokens=max_new_tokens,
    )


def plan_benchmark(
    checked: CheckedFile, model: AskedModel, folder: Path, *, settings: EvaluationSettings, ranks: Ranks
) -> BenchmarkPlan:
    """Cut the questions into batches and look for those that are answered already (collective).

    Raises `ValueError` when the folder was begun under other settings.
    """
    questions = checked.reading.questions
    numbers = plan_batches(
        checked.lengths, max_new_tokens=checked.max_new_tokens, batch_tokens=settings.batch_tokens
    )
    batches = [[questions[number] for number in batch] for batch in numbers]

    def begin() -> frozenset[int]:
        record = settings_record(
            model,
            questions,
            file=checked.file.path,
            max_new_tokens=checked.max_new_tokens,
            batch_tokens=settings.batch_tokens,
        )
        begin_or_go_on(folder, record, overwrite=settings.overwrite)
        return _finished_batches(folder, batches)

    finished = ranks.broadcast_from_first(begin)
    return BenchmarkPlan(checked=checked, folder=folder, batches=batches, finished=finished)


def _finished_batches(folder: Path, batches: Sequence[Sequence[Question]]) -> frozenset[int]:
    """Return the numbers of the batches that the folder has answers of; they must be those of this plan."""
    finished = read_parts(folder)
    for number, answers in finished.items():
        planned = [question.index for batch in batches[number : number + 1] for question in batch]
        if [*answers] != planned:
            raise ValueError(
                f"{folder}: batch {number} was {[*answers][:3]}... and is {planned[:3]}...: prompts have "
                "other lengths than when it was begun; begin anew with --overwrite"
            )
    return frozenset(finished)


def _measure(question: Question, *, inputs: ModelInputs, max_new_tokens: int) -> int | LeftOut:
    try:
        return inputs.num_tokens(question, max_new_tokens=max_new_tokens)
    except BrokenSample as error:
        return LeftOut(
            index=question.index,
            number=question.number,
            reason=str(error),
            rotation_of=question.rotation_of,
        )
