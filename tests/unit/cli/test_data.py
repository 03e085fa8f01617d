"""`genrecal data index`: what it builds, shows, leaves alone and refuses."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.config import RunConfig, write_run_config
from tests.helpers.first_step import raw_config
from tests.helpers.tiny_data import make_tiny_dataset

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Give a function that runs `data index` on 12 samples; it returns exit code, output and errors."""
    data = make_tiny_dataset(tmp_path / "tiny", 12, seed=4)
    config = raw_config(tiny_folders | {"data": data}, tmp_path / "run", mesh={"teacher": {}, "student": {}})
    write_run_config(RunConfig.model_validate(config), tmp_path / "given.yaml")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            "sys.argv", ["genrecal", "data", "index", str(tmp_path / "given.yaml"), *arguments]
        )
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def test_it_builds_the_index_once_and_shows_each_source(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("data.max_tokens=400")
    assert code == 0
    cells = r"data +│ circle, rectangle +│ +12 │ +0 │ +\d+, \d+, \d+ │ +\d+, \d+, \d+ │ +- │ +100\.00% "
    assert re.search(cells, out), out
    manifest = tmp_path / "run" / "index" / "index.json"
    assert f"{manifest.parent}: 12 samples, 0 skipped" in out
    built = manifest.stat().st_ino
    assert run("data.max_tokens=400")[:2] == (0, out)
    assert manifest.stat().st_ino == built


def test_an_index_of_other_settings_is_only_replaced_when_asked_to(run: Run, tmp_path: Path) -> None:
    named = f"data.index={tmp_path / 'named'}"
    assert run(named)[0] == 0
    code, _, err = run(named, "data.max_tokens=400")
    assert code == 2
    assert "was built with data.max_tokens 4096, and it is 400" in err and "--overwrite" in err
    assert run(named, "data.max_tokens=400", "--overwrite")[0] == 0
    assert run(named, "data.max_tokens=400")[0] == 0
