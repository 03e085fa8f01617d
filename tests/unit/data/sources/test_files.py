from pathlib import Path

import pytest

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.sources import files_of
from genrecal_mcore.data.sources.files import expand_braces


def names_of(folder: Path, pattern: str) -> list[str]:
    files = files_of(DataSource(path=folder / pattern, images=folder))
    return [str(file.relative_to(folder)) for file in files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b/9.parquet",
        "b/10.parquet",
        "a(x,y)/0.parquet",
        "b/info.json",
        "c/s-008.tar",
        "c/s-009.tar",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "s-010.tar").touch()
    (tmp_path / "one[1].jsonl").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("one[1].jsonl", ["one[1].jsonl"]),
        ("b", ["b/10.parquet", "b/9.parquet"]),
        (".", ["a(x,y)/0.parquet", "b/10.parquet", "b/9.parquet"]),
        ("c", ["c/s-008.tar", "c/s-009.tar", "c/s-010.tar"]),
        ("c/s-{009..010}.tar", ["c/s-009.tar", "c/s-010.tar"]),
        ("{b/9,a*/0}.parquet", ["a(x,y)/0.parquet", "b/9.parquet"]),
        ("**/?.parquet", ["a(x,y)/0.parquet", "b/9.parquet"]),
    ],
)
def test_a_path_stands_for_a_file_a_folder_or_a_pattern(path: str, expected: list[str], folder: Path) -> None:
    assert names_of(folder, path) == expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.jsonl", r"no\.jsonl does not exist; expected a \.json, \.jsonl, \.parquet or \.tar file"),
        ("c/s-{1..2}.tar", r"does not exist"),
        ("empty", r"empty is a folder without \.parquet or \.tar files; name the file"),
        ("b/*", r"matches \.json and \.parquet files; make a source of each"),
        ("c/s.tar.gz", r"has the suffix '\.gz'; expected one of \.json.* not compressed"),
    ],
)
def test_what_is_no_source_is_refused(path: str, message: str, folder: Path) -> None:
    (folder / "c" / "s.tar.gz").touch()
    with pytest.raises(ValueError, match=message):
        names_of(folder, path)


def test_braces_multiply_and_keep_zeros() -> None:
    assert list(expand_braces("{x,y}-{08..10}")) == ["x-08", "x-09", "x-10", "y-08", "y-09", "y-10"]
