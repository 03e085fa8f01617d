"""Questions of a file in the LLaVA format: each turn is one, asked with the true answers before it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from genrecal_mcore.config import DataSource
from genrecal_mcore.data import BrokenSample, Sample
from genrecal_mcore.data.llava import build_sample
from genrecal_mcore.data.sources import read_record, records_of
from genrecal_mcore.data.types import IMAGE_PLACEHOLDER
from genrecal_mcore.evaluation.benchmarks import CONVERSATIONS
from genrecal_mcore.evaluation.files.reading import Reading
from genrecal_mcore.evaluation.question import LeftOut, Question
from genrecal_mcore.evaluation.scorers.match import normalise

YES_NO = "yes_no"
OTHER = "other"


def read_conversations(path: Path, *, images_dir: Path) -> Reading:
    """Read a JSON or JSONL file whose images are in `images_dir`.

    Raises `ValueError` naming file and line when the file is missing or not JSON.
    """
    source = DataSource(path=path, images=images_dir)
    questions: dict[str, Question] = {}
    left_out = []
    for record in records_of(source):
        raw = read_record(record)
        try:
            sample = build_sample(raw, record)
            asked = {question.index: question for question in questions_of(sample, number=record.number)}
            if not asked.keys().isdisjoint(questions):
                raise BrokenSample(f"the id {sample.id!r} stands in an earlier record already")
            questions |= asked
        except BrokenSample as error:
            name = raw.fields.get("id", "") if isinstance(raw.fields, dict) else ""
            left_out.append(LeftOut(index=str(name), number=record.number, reason=str(error)))
    return Reading(benchmark=CONVERSATIONS, questions=tuple(questions.values()), left_out=tuple(left_out))


def questions_of(sample: Sample, *, number: int) -> Iterator[Question]:
    """Yield a question for each turn: the conversation up to it, with the images that occur in it."""
    for num_turns in range(1, len(sample.turns) + 1):
        turns = sample.turns[:num_turns]
        num_images = sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in turns)
        answer = turns[-1].answer
        yield Question(
            index=sample.id if len(sample.turns) == 1 else f"{sample.id}:{num_turns}",
            number=number,
            turns=(*turns[:-1], replace(turns[-1], answer="")),
            images=sample.images[:num_images],
            answer=answer,
            groups=(("form", form_of(answer)), *([("domain", sample.domain)] if sample.domain else [])),
        )


def form_of(answer: str) -> str:
    """Return `yes_no` for an answer that starts with such a word, as in "no, it is blue.", else `other`."""
    words = normalise(answer).replace(",", " ").split()
    return YES_NO if words[:1] in (["yes"], ["no"]) else OTHER
