import platform
from importlib.metadata import version

from genrecal_mcore.observability import versions_text


def test_every_line_names_a_thing_and_its_version() -> None:
    lines = dict(line.split(" ", 1) for line in versions_text().splitlines())
    assert lines["python"].startswith(platform.python_version())
    assert lines["torch"] == version("torch")
    assert len(lines["git-commit"].split()[0]) > 6
