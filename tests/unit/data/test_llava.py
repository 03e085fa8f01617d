import json
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.llava import BrokenSample, build_sample, read_source
from genrecal_mcore.data.types import Turn


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


def test_json_and_jsonl_hold_the_same_records(tmp_path: Path) -> None:
    records = [record(), record(id="a-2", image=None)]
    (tmp_path / "set.json").write_text(json.dumps(records, indent=2, ensure_ascii=False), encoding="utf-8")
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in records]
    (tmp_path / "set.jsonl").write_text("".join(lines), encoding="utf-8")
    expected = [(1, records[0]), (2, records[1])]
    assert list(read_source(source_of(tmp_path / "set.json"))) == expected
    assert list(read_source(source_of(tmp_path / "set.jsonl"))) == expected


def test_jsonl_records_keep_their_line_number_past_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"id": 1}\n\n  \n{"id": 2}', encoding="utf-8")
    assert list(read_source(source_of(path))) == [(1, {"id": 1}), (4, {"id": 2})]


def test_a_syntax_error_in_jsonl_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"id": 1}\n\n{"id": 2,}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"set\.jsonl, line 3, column \d+: not JSON"):
        list(read_source(source_of(path)))


def test_a_syntax_error_in_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text('[\n{"id": 1},\n{"id": 2},\n{"id" 3}\n]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"set\.json, line 4, column 7: not JSON"):
        list(read_source(source_of(path)))


@pytest.mark.parametrize("name", ["set.json", "set.jsonl"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} does not exist"):
        list(read_source(source_of(tmp_path / name)))


def test_a_json_file_must_hold_a_list(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(record()), encoding="utf-8")
    with pytest.raises(ValueError, match=r"set\.json must hold a list of records, found dict"):
        list(read_source(source_of(path)))


def test_a_whole_record_becomes_a_sample() -> None:
    sample = build_sample(record(), SOURCE, number=7)
    assert sample.id == "a-1"
    assert sample.images == (Path("pictures/x/1.png"), Path("pictures/2.png"))
    assert sample.turns == (
        Turn(question="<image>\nWhat is this?", answer="A cat."),
        Turn(question="<image>And this?", answer="A \u00fc"),
    )


def test_one_image_may_stand_without_a_list() -> None:
    sample = build_sample(
        record(image="1.png", conversations=[human("<image>?"), gpt("yes")]), SOURCE, number=1
    )
    assert sample.images == (Path("pictures/1.png"),)


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
    "value-is-a-number": (
        record(conversations=[human("?"), {"from": "gpt", "value": 4}]),
        "from gpt with a text value",
    ),
}


@pytest.mark.parametrize(("raw", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_record_is_refused_with_its_reason(raw: Any, reason: str) -> None:
    with pytest.raises(BrokenSample, match=reason):
        build_sample(raw, SOURCE, number=1)


def test_a_record_without_id_is_called_by_source_and_number() -> None:
    raw = record()
    del raw["id"]
    assert build_sample(raw, SOURCE, number=7).id == "set-7"
    assert build_sample(raw, source_of(Path("set.json"), name="vqa"), number=8).id == "vqa-8"


def test_the_records_domain_goes_before_its_source_and_the_files_domain() -> None:
    source = source_of(Path("set.json"), domain="of file")
    both = record(domain="of record", source="of source")
    assert build_sample(both, source, number=1).domain == "of record"
    assert build_sample(record(source="of source"), source, number=1).domain == "of source"
    assert build_sample(record(), source, number=1).domain == "of file"
    assert build_sample(record(), SOURCE, number=1).domain is None


@pytest.mark.parametrize(
    ("name", "place"), [("set.jsonl", r"set\.jsonl, line 2: "), ("set.json", r"set\.json: ")]
)
def test_a_file_that_is_not_utf_8_is_named(name: str, place: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'{"id": 1}\n{"id": "\xff"}\n')
    with pytest.raises(ValueError, match=place + "not UTF-8"):
        list(read_source(source_of(tmp_path / name)))


def test_half_a_surrogate_pair_is_no_text() -> None:
    broken = record(image=None, conversations=[human("\ud800"), gpt("A cat.")])
    with pytest.raises(BrokenSample, match="message from human holds half of a surrogate pair"):
        build_sample(broken, SOURCE, number=1)


def test_an_id_of_null_is_no_id() -> None:
    assert build_sample(record(id=None), SOURCE, number=7).id == "set-7"


def test_a_domain_must_be_a_text() -> None:
    with pytest.raises(BrokenSample, match="domain must be a text, found 5"):
        build_sample(record(domain=5), SOURCE, number=1)
