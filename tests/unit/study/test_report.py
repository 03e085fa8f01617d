import base64
import re
import shutil
from pathlib import Path

import pytest

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.study.report import study_report
from tests.helpers.study_folder import make_study


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_report(make_study(tmp_path_factory.mktemp("study")))


def test_the_page_holds_every_figure_that_stands_beside_it_and_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    inside = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)}
    saved = {path.name: path.read_bytes() for path in (page.parent / "figures").iterdir()}
    assert len(saved) == 10 and {"gains.png", "courses.png"} <= saved.keys()
    assert inside == set(saved.values())
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "Not drawn" not in text


def test_the_page_shows_the_summary_what_failed_and_the_cosines_of_every_run(page: Path) -> None:
    rows = [
        ("v1.5", "genrecal", "56.00", "+5.00"),
        ("genrecal", "one", "shapes", "2", "exit code &lt;1&gt;"),
        ("plain", "one", "shapes", "0", "0.200", "0.100", "0.600", "0.500"),
        ("plain", "one", "shapes", "1", "0.220", "0.100", "0.600", "0.500"),
    ]
    text = page.read_text(encoding="utf-8")
    assert [row for row in rows if "".join(f"<td>{cell}</td>" for cell in row) not in text] == []


def test_a_figure_without_data_is_named_with_what_would_make_it(tmp_path: Path) -> None:
    make_study(tmp_path, diagnosed=False, with_courses=False)
    text = study_report(tmp_path).read_text(encoding="utf-8")
    assert text.count("Not drawn: it needs diagnosed runs; name their arms in diagnose.arms") == 3
    assert "name arms in courses of the grid" in text
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["gains.png", "heat_map.png"]


def test_the_report_command_takes_a_study_and_refuses_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(tmp_path / "study", diagnosed=False, with_courses=False)
    shutil.rmtree(tmp_path / "study" / "runs")
    for missing, code in ((None, 0), ("summary.csv", 2)):
        if missing:
            (tmp_path / "study" / missing).unlink()
        monkeypatch.setattr("sys.argv", ["genrecal", "report", str(tmp_path / "study")])
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        assert caught.value.code == code
    captured = capsys.readouterr()
    assert str(tmp_path / "study" / "report.html") in captured.out
    assert "is not the folder of a study" in captured.err and "summary.csv does not exist" in captured.err
