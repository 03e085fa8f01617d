import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from genrecal_mcore.observability import logging_setup, set_up_logging, stderr_console

LOGGER_NAME = "genrecal_mcore.somewhere"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, level = logging.getLogger(), logging.getLogger().level
    stderr_console.cache_clear()
    yield
    logging_setup._remove_our_handlers()
    root.setLevel(level)
    logging.captureWarnings(False)
    stderr_console.cache_clear()


def test_each_rank_has_a_file_with_rank_and_role_in_it(tmp_path: Path) -> None:
    path = set_up_logging(tmp_path, rank=7, role="teacher tp 1 pp 0 dp 0", speaks=False)
    logging.getLogger(LOGGER_NAME).info("step %d", 3)
    assert path == tmp_path / "logs" / "rank_007.log"
    assert "rank 7 (teacher tp 1 pp 0 dp 0) genrecal_mcore.somewhere: step 3" in path.read_text()


@pytest.mark.parametrize(
    ("speaks", "heard"), [(True, ["info", "warning"]), (False, [])], ids=["speaks", "silent"]
)
def test_stderr_hears_the_speaking_rank_up_to_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], speaks: bool, heard: list[str]
) -> None:
    path = set_up_logging(tmp_path, rank=0, role="student 0", speaks=speaks)
    levels = ["info", "warning", "error"]
    for level in levels:
        getattr(logging.getLogger(LOGGER_NAME), level)("this is an %s line", level)
    warnings.warn("this is a Python warning", stacklevel=1)
    shown, written = capsys.readouterr().err, path.read_text()
    assert [level for level in levels if f"this is an {level} line" in shown] == heard
    assert [level for level in levels if f"this is an {level} line" in written] == levels
    assert "Python warning" in written
    assert "Python warning" not in shown


def test_a_second_call_replaces_the_first(tmp_path: Path) -> None:
    first = set_up_logging(tmp_path / "first", rank=0, role="student 0", speaks=False)
    second = set_up_logging(tmp_path / "second", rank=0, role="student 0", speaks=False)
    logging.getLogger(LOGGER_NAME).info("once")
    assert first.read_text() == ""
    assert second.read_text().count("once") == 1
