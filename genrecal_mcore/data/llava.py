"""Reads the LLaVA conversation format, JSON or JSONL, and says what is wrong with a broken record."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.types import Sample, Turn

IMAGE_PLACEHOLDER = "<image>"


class BrokenSample(ValueError):
    """A sample that cannot be learnt from; the text is the reason, as it is listed in `skipped.jsonl`."""


def read_source(source: DataSource) -> Iterator[tuple[int, Any]]:
    """Yield (line or item number, counted from 1, raw record) of a source.

    Raises `ValueError` naming file and line when the file is missing or not JSON.
    """
    if not source.path.is_file():
        raise ValueError(f"data.sources: {source.path} does not exist; expected a .json or .jsonl file")
    if source.path.suffix == ".jsonl":
        yield from _read_jsonl(source.path)
    else:
        yield from _read_json(source.path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode())
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}, column {error.colno}: not JSON ({error.msg}); "
                    "repair or remove the line"
                ) from None
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8 ({error}); save it as UTF-8") from None


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); repair the file"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a list of records, found {type(records).__name__}")
    yield from enumerate(records, 1)


def build_sample(record: Any, source: DataSource, *, number: int) -> Sample:
    """Turn a raw record into a `Sample`; raises `BrokenSample` with the reason when it is not one."""
    if not isinstance(record, dict):
        raise BrokenSample(f"expected an object, found {type(record).__name__}")
    images = record.get("image") or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise BrokenSample("image must be a path or a list of paths")
    turns = _build_turns(record.get("conversations"))
    placeholders = sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in turns)
    if placeholders != len(images):
        raise BrokenSample(f"{placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(images)} images")
    name = source.name or source.path.stem
    record_id = record.get("id")
    return Sample(
        id=f"{name}-{number}" if record_id is None else str(record_id),
        images=tuple(source.images / image for image in images),
        image_names=tuple(images),
        turns=turns,
        source=name,
        domain=_domain(record) or source.domain,
    )


def _domain(record: dict[str, Any]) -> str | None:
    domain = record.get("domain") or record.get("source")
    if domain is not None and not isinstance(domain, str):
        raise BrokenSample(f"domain must be a text, found {domain!r}")
    return domain


def _build_turns(conversations: Any) -> tuple[Turn, ...]:
    if not isinstance(conversations, list) or not conversations or len(conversations) % 2:
        raise BrokenSample("conversations must be a list of human and gpt messages in turn")
    turns = []
    for human, gpt in zip(conversations[::2], conversations[1::2], strict=True):
        question, answer = _message(human, "human"), _message(gpt, "gpt")
        if not answer.strip():
            raise BrokenSample("an answer is empty")
        if IMAGE_PLACEHOLDER in answer:
            raise BrokenSample(f"an answer holds {IMAGE_PLACEHOLDER}")
        turns.append(Turn(question=question, answer=answer))
    return tuple(turns)


def _message(message: Any, speaker: str) -> str:
    if (
        not isinstance(message, dict)
        or message.get("from") != speaker
        or not isinstance(message.get("value"), str)
    ):
        raise BrokenSample(f"expected a message from {speaker} with a text value")
    text = message["value"]
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BrokenSample(f"the message from {speaker} holds half of a surrogate pair, which is no text")
    return text
