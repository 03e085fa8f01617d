import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
SCRIPT = ROOT / "examples" / "container_requirements.py"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    names = ("container_requirements", "container_smoke")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    requirements, smoke = (importlib.import_module(name) for name in names)
    yield requirements, smoke
    for name in names:
        del sys.modules[name]


def instructions() -> list[tuple[str, str]]:
    """Return (name, arguments) of each instruction of the Dockerfile, its continued lines joined."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def arguments(name: str) -> list[str]:
    return [found for instruction, found in instructions() if instruction == name]


def copied_sources() -> list[str]:
    return [source for copy in arguments("COPY") for source in copy.split()[:-1]]


def test_the_filter_drops_torch_and_keeps_every_other_pin(scripts: tuple[ModuleType, ModuleType]) -> None:
    kept = scripts[0].container_constraints(PINS, {})
    assert [pin for pin in PINS if pin not in kept] == [f"torch=={version('torch').partition('+')[0]}"]
    assert len(kept) == len(PINS) - 1


@pytest.mark.parametrize("name", ["torchvision", "transformer_engine_torch", "nvidia-nccl-cu13", "apex"])
def test_a_build_of_nvidia_never_gets_a_pin_of_ours(
    scripts: tuple[ModuleType, ModuleType], name: str
) -> None:
    assert scripts[0].container_constraints([f"{name}==1.0", "numpy==2.4.6"], {}) == ["numpy==2.4.6"]


@pytest.mark.parametrize("name", ["numpy", "torchmetrics", "transformers", "tritonclient", "peft"])
def test_a_name_that_only_looks_like_a_build_keeps_its_pin(
    scripts: tuple[ModuleType, ModuleType], name: str
) -> None:
    assert scripts[0].container_constraints([f"{name}==1.0"], {}) == [f"{name}==1.0"]


def test_the_script_pins_the_torch_beside_it_and_asks_for_what_pyproject_names(tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPT, "--out", tmp_path], check=True)
    constraints = (tmp_path / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in constraints if line.startswith("torch==")] == [f"torch=={version('torch')}"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = (tmp_path / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert names == project["dependencies"] + project["optional-dependencies"]["demo"]


def test_the_script_refuses_a_base_image_without_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-S", SCRIPT, "--out", tmp_path]  # -S: without site-packages
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "expected a torch" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_smoke_check_names_a_version_that_is_not_as_pinned(
    scripts: tuple[ModuleType, ModuleType],
) -> None:
    right = [f"numpy=={version('numpy')}", "not-installed==1.0"]
    assert scripts[1].wrong_versions(right) == []
    found = version("torch")
    assert scripts[1].wrong_versions([*right, "torch==0.1"]) == [f"torch: expected 0.1, found {found}"]


def test_the_smoke_check_sees_a_second_torch_in_the_environment(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    for name in ("torch", "numpy"):
        folder = tmp_path / "lib" / "python3.12" / "site-packages" / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    assert scripts[1].shadowed_builds(tmp_path) == ["torch"]


def test_everything_that_is_copied_exists_and_is_let_through() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    sources = copied_sources()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if Path(source).parts[0] not in let_through] == []


def test_everything_that_the_package_is_built_from_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    needed = [*packages, project["project"]["readme"], *project["project"]["license-files"]]
    assert [name for name in needed if name not in copied_sources()] == []


def test_the_image_runs_as_a_user_that_is_not_root_and_was_made() -> None:
    user = arguments("USER")[-1]
    assert user.isdecimal()  # by number: some runtimes refuse to trust a name
    assert int(user) > 0
    assert any(f"--uid {user} " in run for run in arguments("RUN"))


def test_the_last_step_is_the_smoke_check_as_that_user() -> None:
    names = [name for name, _ in instructions()]
    assert names[-1] == "RUN"
    assert names.index("USER") < len(names) - 1
    assert arguments("RUN")[-1].endswith("/examples/container_smoke.py")


def test_the_docs_are_about_the_release_that_is_built_on() -> None:
    tag = dict(argument.split("=") for argument in arguments("ARG"))["BASE_TAG"]
    assert re.fullmatch(r"\d\d\.\d\d-py3", tag)
    assert f"nvcr.io/nvidia/pytorch:{tag}" in (ROOT / "docs" / "container.md").read_text(encoding="utf-8")
