import json
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.evaluation.files.conversations import form_of, read_conversations
from genrecal_mcore.evaluation.question import Question

pytestmark = pytest.mark.evaluation


def record(*turns: tuple[str, str], **fields: Any) -> dict[str, Any]:
    messages = [{"from": "human", "value": question} for question, _ in turns]
    answers = [{"from": "gpt", "value": answer} for _, answer in turns]
    pairs = [message for pair in zip(messages, answers, strict=True) for message in pair]
    return {"id": "7", "conversations": pairs, **fields}


def questions(tmp_path: Path, *records: dict[str, Any]) -> tuple[Question, ...]:
    return read(tmp_path, *records).questions


def read(tmp_path: Path, *records: dict[str, Any]) -> Any:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_conversations(path, images_dir=tmp_path)


def test_each_turn_is_a_question_with_the_true_history_before_it(tmp_path: Path) -> None:
    first, second = questions(
        tmp_path, record(("<image>\nWhat?", "a cat"), ("Is it?", "no"), image="a.png", domain="pets")
    )
    assert [turn.answer for turn in first.turns] == [""]
    assert [(turn.question, turn.answer) for turn in second.turns] == [
        ("<image>\nWhat?", "a cat"),
        ("Is it?", ""),
    ]
    assert (first.index, second.index) == ("7:1", "7:2")
    assert (first.answer, second.answer) == ("a cat", "no")
    assert first.groups == (("form", "other"), ("domain", "pets"))
    assert second.groups == (("form", "yes_no"), ("domain", "pets"))
    assert first.images == second.images


def test_images_of_later_turns_are_not_shown_early(tmp_path: Path) -> None:
    asked = questions(
        tmp_path, record(("<image>\nWhat?", "a cat"), ("<image>\nAnd this?", "no"), image=["a.png", "b.png"])
    )
    assert [[image.path.name for image in question.images] for question in asked] == [
        ["a.png"],
        ["a.png", "b.png"],
    ]


def test_a_broken_record_and_one_with_an_earlier_id_are_left_out(tmp_path: Path) -> None:
    reading = read(
        tmp_path,
        record(("What?", "a cat")),
        record(("<image>\nWhat?", "a cat"), id="8"),
        record(("Who?", "me")),
    )
    assert [question.index for question in reading.questions] == ["7"]
    assert [(row.index, row.number, row.reason) for row in reading.left_out] == [
        ("8", 2, "1 <image> placeholders for 0 images"),
        ("7", 3, "the id '7' stands in an earlier record already"),
    ]


@pytest.mark.parametrize(
    ("answer", "form"),
    [("Yes.", "yes_no"), ("no, it is blue.", "yes_no"), ("nothing", "other"), ("", "other")],
)
def test_the_form_is_yes_or_no_where_the_true_answer_starts_so(answer: str, form: str) -> None:
    assert form_of(answer) == form
