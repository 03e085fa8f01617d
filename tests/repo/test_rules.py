"""Rules that hold for every tracked file, whoever writes it."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
TEXTS = [
    name
    for name in TRACKED
    if (ROOT / name).is_file() and Path(name).suffix not in (".safetensors", ".png") and name != "LICENSE"
]
CODE = [name for name in TEXTS if name.endswith(".py")]


def lines_matching(pattern: str, names: list[str]) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()}"
        for name in names
        if name != "tests/repo/test_rules.py"
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if expression.search(line)
    ]


@pytest.mark.parametrize(
    ("why", "pattern", "names"),
    [
        ("runs code from a checkpoint", r"trust_remote_code\s*=\s*True", CODE),
        ("imports torchvision", r"^\s*(import|from) torchvision", CODE),
        ("unpickles a user's file", r"pickle\.loads?\(|torch\.load\((?!.*weights_only=True)", CODE),
        ("holds a path of one machine", r"/(home|root|Users)/\w", TEXTS),
        ("prints instead of logging", r"^\s*print\(", [n for n in CODE if n.startswith("genrecal_mcore/")]),
    ],
)
def test_no_file(why: str, pattern: str, names: list[str]) -> None:
    allowed = {"genrecal_mcore/cli/leaving.py"} if why.startswith("prints") else set()
    found = [line for line in lines_matching(pattern, names) if line.partition(":")[0] not in allowed]
    assert found == [], why


def test_every_pin_is_in_one_place() -> None:
    pins = lines_matching(r"^[\w.\[\]-]+==[\w.]+", [name for name in TEXTS if not name.endswith(".py")])
    assert {line.partition(":")[0] for line in pins} == {"constraints.txt"}


def test_no_file_is_larger_than_a_few_megabytes() -> None:
    large = [name for name in TRACKED if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 4 * 2**20]
    assert large == []


def test_every_script_and_verb_shows_an_example_in_its_help() -> None:
    files = [*ROOT.glob("checkpoint_tools/*2*.py"), *ROOT.glob("genrecal_mcore/cli/*.py")]
    files = [path for path in files if not path.stem.endswith("_options")]
    commands = [path for path in files if "Annotated[" in path.read_text(encoding="utf-8")]
    assert len(commands) >= 8
    without = [path.name for path in commands if "Example: " not in path.read_text(encoding="utf-8")]
    assert without == []
