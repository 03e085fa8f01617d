import json
from pathlib import Path

import pytest

from genrecal_mcore.evaluation.question import Answer
from genrecal_mcore.evaluation.results import PartWriter, begin_or_go_on, read_parts

pytestmark = pytest.mark.evaluation

SETTINGS = {"model": "abc", "batch_tokens": 64, "max_new_tokens": 8}
ANSWERS = [Answer(text="rot\nund", is_cut=False), Answer(text="ü", is_cut=True)]


def test_what_was_appended_is_read_back_whichever_rank_wrote_it(tmp_path: Path) -> None:
    begin_or_go_on(tmp_path, SETTINGS, overwrite=False)
    for rank, batch in ((0, 2), (1, 0)):
        writer = PartWriter(tmp_path, rank=rank)
        writer.append(batch, ["7", str(batch)], ANSWERS)
        writer.close()
    assert read_parts(tmp_path) == {
        0: dict(zip(("7", "0"), ANSWERS, strict=True)),
        2: dict(zip(("7", "2"), ANSWERS, strict=True)),
    }


def test_an_unfinished_line_is_dropped_and_the_file_goes_on_behind_the_last_whole_one(tmp_path: Path) -> None:
    begin_or_go_on(tmp_path, SETTINGS, overwrite=False)
    writer = PartWriter(tmp_path, rank=0)
    writer.append(0, ["7"], ANSWERS[:1])
    writer.close()
    path = tmp_path / "parts" / "rank_000.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-9])
    assert read_parts(tmp_path).keys() == {0}
    assert path.read_bytes() == whole


def test_a_line_that_is_not_as_it_was_written_is_named(tmp_path: Path) -> None:
    begin_or_go_on(tmp_path, SETTINGS, overwrite=False)
    (tmp_path / "parts" / "rank_000.jsonl").write_text('{"batch": 0, "answers": {}}\n{"batch": 1}\n')
    with pytest.raises(ValueError, match=r"rank_000\.jsonl, line 2 is not as it was written"):
        read_parts(tmp_path)


def test_it_goes_on_under_the_same_settings_and_begins_anew_when_told_to(tmp_path: Path) -> None:
    for overwrite, is_kept in ((False, True), (True, False)):
        begin_or_go_on(tmp_path / "x", SETTINGS, overwrite=False)
        PartWriter(tmp_path / "x", rank=0).append(0, ["7"], ANSWERS[:1])
        begin_or_go_on(tmp_path / "x", SETTINGS, overwrite=overwrite)
        assert bool(read_parts(tmp_path / "x")) is is_kept
        assert json.loads((tmp_path / "x" / "settings.json").read_text()) == SETTINGS


def test_settings_that_differ_are_named_with_both_values(tmp_path: Path) -> None:
    begin_or_go_on(tmp_path, SETTINGS, overwrite=False)
    message = (
        "batch_tokens was 64 and is 32; model was 'abc' and is 'xyz'. Choose another --out, or begin anew"
    )
    with pytest.raises(ValueError, match=message):
        begin_or_go_on(tmp_path, SETTINGS | {"model": "xyz", "batch_tokens": 32}, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_holds_something_else_is_kept(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds no settings\.json, so it is no evaluation"):
        begin_or_go_on(tmp_path, SETTINGS, overwrite=overwrite)
    assert (tmp_path / "mine.txt").read_text() == "mine"
