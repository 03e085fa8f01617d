from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.images import ImageFile
from genrecal_mcore.data.llava import build_sample
from genrecal_mcore.data.sources import RawRecord, Record
from genrecal_mcore.data.types import BrokenSample, Sample, Turn


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def record(**changes: Any) -> dict[str, Any]:
    whole = {
        "id": "a-1",
        "image": ["x/1.png", "2.png"],
        "conversations": [
            human("<image>\nWhat is this?"),
            gpt("A cat."),
            human("<image>And this?"),
            gpt("A \u00fc"),
        ],
    }
    return whole | changes


def source_of(path: Path, **changes: Any) -> DataSource:
    return DataSource(path=path, images=Path("pictures"), **changes)


SOURCE = source_of(Path("some/set.jsonl"))


def sample_of(fields: Any, source: DataSource = SOURCE, *, number: int = 1) -> Sample:
    record = Record(source=source, file=source.path, place=(0, 0), number=number)
    return build_sample(RawRecord(fields=fields), record)


def test_a_whole_record_becomes_a_sample() -> None:
    sample = sample_of(record(), SOURCE, number=7)
    assert sample.id == "a-1"
    assert sample.images == (
        ImageFile(name="x/1.png", path=Path("pictures/x/1.png")),
        ImageFile(name="2.png", path=Path("pictures/2.png")),
    )
    assert sample.turns == (
        Turn(question="<image>\nWhat is this?", answer="A cat."),
        Turn(question="<image>And this?", answer="A \u00fc"),
    )


def test_one_image_may_stand_without_a_list() -> None:
    sample = sample_of(record(image="1.png", conversations=[human("<image>?"), gpt("yes")]))
    assert [image.open() for image in sample.images] == [Path("pictures/1.png")]


BROKEN = {
    "not-an-object": (["a"], "expected an object, found list"),
    "fewer-placeholders": (record(image=["1.png", "2.png", "3.png"]), "2 <image> placeholders for 3 images"),
    "more-placeholders": (record(image="1.png"), "2 <image> placeholders for 1 images"),
    "no-image-for-placeholders": (record(image=None), "2 <image> placeholders for 0 images"),
    "image-is-a-number": (record(image=3), "image must be a path or a list of paths"),
    "image-list-holds-a-number": (record(image=["1.png", 2]), "image must be a path or a list of paths"),
    "empty-answer": (record(image=None, conversations=[human("Hm?"), gpt(" \n")]), "an answer is empty"),
    "image-in-answer": (record(conversations=[human("?"), gpt("<image> it is")]), "an answer holds <image>"),
    "no-conversations": (record(conversations=None), "conversations must be a list"),
    "empty-conversations": (record(conversations=[]), "conversations must be a list"),
    "question-without-answer": (record(conversations=[human("?")]), "conversations must be a list"),
    "answer-first": (record(conversations=[gpt("yes"), human("?")]), "expected a message from human"),
    "two-questions": (record(conversations=[human("?"), human("?")]), "expected a message from gpt"),
    "system-message": (record(conversations=[human("?"), {"role": "system", "content": "!"}]), "from gpt"),
    "part-of-another-kind": (
        record(conversations=[{"role": "user", "content": [{"type": "video"}]}, gpt("yes")]),
        "a part of a message must be an image or a text, found 'video'",
    ),
    "value-is-a-number": (
        record(conversations=[human("?"), {"from": "gpt", "value": 4}]),
        "from gpt with a text value",
    ),
}


@pytest.mark.parametrize(("raw", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_record_is_refused_with_its_reason(raw: Any, reason: str) -> None:
    with pytest.raises(BrokenSample, match=reason):
        sample_of(raw)


def test_a_record_without_id_is_called_by_source_and_number() -> None:
    raw = record()
    del raw["id"]
    assert sample_of(raw, SOURCE, number=7).id == "set-7"
    assert sample_of(raw, source_of(Path("set.json"), name="vqa"), number=8).id == "vqa-8"


def test_the_records_domain_goes_before_the_files_and_that_before_the_records_source() -> None:
    source = source_of(Path("set.json"), domain="of file")
    both = record(domain="of record", source="of source")
    assert sample_of(both, source).domain == "of record"
    assert sample_of(record(source="of source"), source).domain == "of file"
    assert sample_of(record(source="of source")).domain == "of source"
    assert sample_of(record()).domain is None


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    "messages",
    [
        [user("<image>What is this?"), assistant("A cat.")],
        [
            user([{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]),
            assistant([{"type": "text", "text": "A cat."}]),
        ],
    ],
    ids=["texts", "parts"],
)
def test_messages_of_chat_templates_are_conversations(messages: list[dict[str, Any]]) -> None:
    raw = {"id": "a", "images": ["1.png"], "messages": messages}
    sample = sample_of(raw)
    assert sample.turns == (Turn(question="<image>What is this?", answer="A cat."),)
    assert [image.name for image in sample.images] == ["1.png"]


def test_a_sample_without_id_in_one_of_many_files_is_called_by_file_too() -> None:
    source = DataSource(path=Path("shards"), name="many")
    place = Record(source=source, file=Path("shards/a-01.tar"), place=(0, 0), number=5)
    raw = RawRecord(fields={"conversations": [human("Hm?"), gpt("Yes.")]})
    assert build_sample(raw, place).id == "many-a-01-5"


def test_an_image_that_is_named_needs_a_folder() -> None:
    source = DataSource(path=Path("set.parquet"))
    with pytest.raises(
        BrokenSample, match=r"names the image x/1\.png, but its source has no folder of images"
    ):
        sample_of(record(), source)


def test_half_a_surrogate_pair_is_no_text() -> None:
    broken = record(image=None, conversations=[human("\ud800"), gpt("A cat.")])
    with pytest.raises(BrokenSample, match="message from human holds half of a surrogate pair"):
        sample_of(broken)


def test_an_id_of_null_is_no_id() -> None:
    assert sample_of(record(id=None), SOURCE, number=7).id == "set-7"


def test_a_domain_must_be_a_text() -> None:
    with pytest.raises(BrokenSample, match="domain must be a text, found 5"):
        sample_of(record(domain=5))
