from pathlib import Path

import pytest

from genrecal_mcore.evaluation.files import BenchmarkFile, read_questions
from tests.helpers.tiny_benchmarks import choice_row, write_tsv

pytestmark = pytest.mark.evaluation


def test_a_file_is_called_as_it_is_or_as_it_is_named(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MMStar.tsv", [choice_row(1)])
    named = BenchmarkFile.parse(f"ai2d={path}", images_dir=Path("images"))
    assert BenchmarkFile.parse(str(path)) == BenchmarkFile(name="MMStar", path=path, images_dir=tmp_path)
    assert named == BenchmarkFile(name="ai2d", path=path, images_dir=Path("images"))
    assert read_questions(named).benchmark.name == "AI2D"


def test_a_name_may_be_part_of_a_path_with_an_equals_sign(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    path = write_tsv(folder / "MMStar.tsv", [choice_row(1)])
    assert BenchmarkFile.parse(str(path)).name == "MMStar"
    assert BenchmarkFile.parse(f"x={path}").path == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}/gone.tsv", "gone.tsv does not exist; expected FILE or NAME=FILE"),
        ("mmstar={}/gone.tsv", "gone.tsv does not exist"),
        ("{}/table.xlsx", "expected a .tsv file .* found '.xlsx'"),
        ("={}/MMStar.tsv", "'' is no name for a folder"),
        ("a/b={}/MMStar.tsv", "'a/b' is no name"),
        ("..={}/MMStar.tsv", "is no name"),
    ],
)
def test_what_is_no_file_or_name_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.xlsx").touch()
    (tmp_path / "MMStar.tsv").touch()
    with pytest.raises(ValueError, match=message):
        BenchmarkFile.parse(text.format(tmp_path))
