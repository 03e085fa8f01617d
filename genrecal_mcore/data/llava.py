"""Turns the raw record of a conversation into a sample, and says what is wrong with a broken one.

Two spellings are known: LLaVA's `conversations` of `from` and `value`, and `messages` of `role` and
`content`, as chat templates have them.
"""

from typing import Any

from genrecal_mcore.data.images import ImageFile
from genrecal_mcore.data.sources import RawRecord, Record, read_record
from genrecal_mcore.data.types import IMAGE_PLACEHOLDER, BrokenSample, Sample, SampleImage, Turn

SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


def read_sample(record: Record) -> Sample:
    """Read a record and turn it into a `Sample`; raises `BrokenSample` when it is not one."""
    return build_sample(read_record(record), record)


def build_sample(raw: RawRecord, record: Record) -> Sample:
    """Turn what was read at a record's place into a `Sample`.

    Raises `BrokenSample` with the reason when it is not one.
    """
    fields = raw.fields
    if not isinstance(fields, dict):
        raise BrokenSample(f"expected an object, found {type(fields).__name__}")
    images = _named_images(fields, record) if raw.images is None else raw.images
    turns = _build_turns(fields.get("conversations") or fields.get("messages"))
    placeholders = sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in turns)
    if placeholders != len(images):
        raise BrokenSample(f"{placeholders} {IMAGE_PLACEHOLDER} placeholders for {len(images)} images")
    record_id = fields.get("id")
    return Sample(
        id=_default_id(record) if record_id is None else str(record_id),
        images=images,
        turns=turns,
        source=record.source.label,
        domain=_domain(fields, record),
    )


def _default_id(record: Record) -> str:
    is_whole_source = record.file == record.source.path
    parts = [record.source.label, *([] if is_whole_source else [record.file.stem]), str(record.number)]
    return "-".join(parts)


def _named_images(fields: dict[str, Any], record: Record) -> tuple[SampleImage, ...]:
    names = fields.get("image") or fields.get("images") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BrokenSample("image must be a path or a list of paths")
    folder = record.source.images
    if names and folder is None:
        raise BrokenSample(f"the record names the image {names[0]}, but its source has no folder of images")
    return tuple(ImageFile(name=name, path=folder / name) for name in names if folder is not None)


def _domain(fields: dict[str, Any], record: Record) -> str | None:
    """Return the record's own domain, then that of its source in the configuration, then its `source`.

    Cambrian and others write into `source` which data set a record once came from.
    """
    domain = fields.get("domain") or record.source.domain or fields.get("source")
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
    fields = message if isinstance(message, dict) else {}
    text = fields.get("value") if "value" in fields else _content_text(fields.get("content"))
    said_by = SPEAKERS.get(str(fields.get("from", fields.get("role"))))
    if said_by != speaker or not isinstance(text, str):
        raise BrokenSample(f"expected a message from {speaker} with a text value")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BrokenSample(f"the message from {speaker} holds half of a surrogate pair, which is no text")
    return text


def _content_text(content: Any) -> Any:
    """Return the text of a message's content, which may be a list of parts of a `type`."""
    if not isinstance(content, list):
        return content
    return "".join(map(_part_text, content))


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return IMAGE_PLACEHOLDER
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise BrokenSample(f"a part of a message must be an image or a text, found {kind!r}")
