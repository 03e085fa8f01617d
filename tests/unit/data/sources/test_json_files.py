import json
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.sources import read_record, records_of

RECORDS = [{"id": 1, "text": 'a \u00fc, "b"] [\\'}, {"id": 2, "image": None}, ["no record"], {"id": "\u4e2d"}]


def read(path: Path) -> list[tuple[int, Any]]:
    source = DataSource(path=path, images=path.parent)
    return [(record.number, read_record(record).fields) for record in records_of(source)]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_and_jsonl_hold_the_same_records(indent: int | None, tmp_path: Path) -> None:
    text = json.dumps(RECORDS, indent=indent, ensure_ascii=False)
    (tmp_path / "set.json").write_text(f"\n {text}\n", encoding="utf-8")
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS]
    (tmp_path / "set.jsonl").write_text("".join(lines), encoding="utf-8")
    expected = list(enumerate(RECORDS, 1))
    assert read(tmp_path / "set.json") == expected
    assert read(tmp_path / "set.jsonl") == expected


def test_an_empty_list_and_an_empty_file_of_lines_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text("[ ]")
    (tmp_path / "set.jsonl").write_text("")
    assert read(tmp_path / "set.json") == read(tmp_path / "set.jsonl") == []


def test_jsonl_records_keep_their_line_number_past_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"id": 1}\n\n  \n{"id": 2}', encoding="utf-8")
    assert read(path) == [(1, {"id": 1}), (4, {"id": 2})]


def test_a_syntax_error_in_jsonl_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text('{"id": 1}\n\n{"id": 2,}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"set\.jsonl, line 3, column \d+: not JSON"):
        read(path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[\n{"id": 1},\n{"id": 2},\n{"id" 3}\n]', r"line 4, column 7: not JSON"),
        ('[{"id": 1}\n{"id": 2}]', r"line 2, column 1: not JSON \(Expecting ',' delimiter\)"),
        ('[{"id": 1}', r"line 1, column 11: not JSON \(Expecting ',' delimiter\)"),
        ('[{"id": 1},]', r"line 1, column 12: not JSON"),
        ('[{"id": 1}] []', r"line 1, column 12: not JSON \(Extra data\)"),
    ],
)
def test_a_syntax_error_in_json_names_file_and_line(text: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"set\.json, " + place):
        read(path)


def test_a_json_file_must_hold_a_list(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps(RECORDS[0]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"set\.json must hold a list of records, found dict"):
        read(path)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("set.jsonl", b'{"id": 1}\n{"id": "\xff"}\n', r"set\.jsonl, line 2: "),
        ("set.json", b'[{"id": 1},\n{"id": "\xff"}]\n', r"set\.json: "),
    ],
)
def test_a_file_that_is_not_utf_8_is_named(name: str, text: bytes, place: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=place + "not UTF-8"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["set.json", "set.jsonl"])
def test_a_file_that_changed_after_the_scan_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    text = json.dumps([{"id": 1}]) if name == "set.json" else json.dumps({"id": 1})
    path.write_text(text)
    (record,) = records_of(DataSource(path=path, images=tmp_path))
    path.write_text(" " * 5 + text)
    with pytest.raises(ValueError, match=rf"{name}, (line|item) 1.*not JSON"):
        read_record(record)
    path.unlink()
    with pytest.raises(ValueError, match=rf"data\.sources: .*{name} cannot be read"):
        read_record(record)
