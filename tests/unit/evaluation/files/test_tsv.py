import csv
from pathlib import Path

import pytest

from genrecal_mcore.evaluation.files.tsv import read_row, read_tsv

pytestmark = pytest.mark.evaluation

ROWS = [
    ["index", "image", "question"],
    ["1", "x" * 200_000, 'a "quoted"\nsecond line\tand a tab'],
    ["2", "", "这是什么?"],
    ["3", "y", "two\r\nlines"],
]


@pytest.fixture(params=[csv.QUOTE_MINIMAL, csv.QUOTE_ALL], ids=["minimal", "all"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "rows.tsv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as some editors save it
        csv.writer(file, dialect=csv.excel_tab, quoting=request.param).writerows(ROWS)
    return path


def test_rows_are_read_in_order_and_found_again_by_their_place(path: Path) -> None:
    read = list(read_tsv(path))
    assert [values for _, values in read] == ROWS
    assert [read_row(path, place) for place, _ in reversed(read[1:])] == ROWS[:0:-1]


def test_a_row_is_read_when_it_is_asked_for(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"4\t\xff\tno text\n")
    rows = read_tsv(path)
    assert [next(rows)[1] for _ in ROWS] == ROWS
    with pytest.raises(ValueError, match=r"rows\.tsv: the row that begins in line \d+ is not .* 0xff"):
        next(rows)


def test_a_quote_that_is_never_closed_is_named_with_the_line_it_begins_in(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('index\tquestion\n1\tfine\n2\t"open\n3\tlost\n')
    with pytest.raises(ValueError, match="the row that begins in line 3 is not .*unexpected end of data"):
        list(read_tsv(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.tsv does not exist"):
        next(read_tsv(tmp_path / "gone.tsv"))
