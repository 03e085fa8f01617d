from pathlib import Path

import pytest

from genrecal_mcore.feature_cache import CacheRecord, check_record, create_record, load_record

RECORD = CacheRecord(teacher="t", processor="p", dtype="bfloat16", hidden_size=40, rows="answers")
EVERY_FIELD = tuple(CacheRecord.model_fields)


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    create_record(tmp_path / "cache", RECORD)
    assert check_record(tmp_path / "cache", RECORD, fields=EVERY_FIELD) == RECORD
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cache.json"]


def test_every_field_that_differs_is_named_with_both_values(tmp_path: Path) -> None:
    create_record(tmp_path, RECORD)
    other = RECORD.model_copy(update={"teacher": "u", "hidden_size": 48, "rows": "all"})
    with pytest.raises(ValueError, match="with teacher t, not u, hidden_size 40, not 48, rows answers, not"):
        check_record(tmp_path, other, fields=EVERY_FIELD)
    check_record(tmp_path, other, fields=("processor", "dtype"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist; name a feature cache, or write one with genrecal cache"),
        ("{", "is not the record of a feature cache of version 1: : invalid json"),
        (
            RECORD.model_dump_json().replace('"format_version":1', '"format_version":2'),
            "format_version: input",
        ),
    ],
    ids=["missing", "not JSON", "another version"],
)
def test_what_is_no_record_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "cache.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_record(tmp_path)
