"""Write what the Dockerfile installs, for a base image that brings its own torch.

Example: python examples/container_requirements.py --out /opt/genrecal

`requirements.txt` has the names in pyproject.toml. `constraints.txt` has the repository's pins, but the base
image's version of everything that NVIDIA built for that image: pip may then neither replace nor shadow it.
Standard library only, for it runs before anything is installed.
"""

import argparse
import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# torch, and what is compiled against it or comes with its CUDA.
NVIDIA_BUILDS = (
    "torch",
    "torch-tensorrt",
    "torchaudio",
    "torchvision",
    "triton",
    "pytorch-triton",
    "transformer-engine*",
    "apex",
    "flash-attn*",
    "nvidia-*",
)


def normalised(name: str) -> str:
    """Return a distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_nvidia_build(name: str) -> bool:
    """Return whether the base image's own build of this distribution must stay."""
    return any(fnmatch(normalised(name), pattern) for pattern in NVIDIA_BUILDS)


def container_constraints(pins: list[str], builds: dict[str, str]) -> list[str]:
    """Return the `name==version` lines to install under: pins of other distributions, then `builds`."""
    kept = [pin for pin in pins if not is_nvidia_build(pin.partition("==")[0])]
    return kept + [f"{name}=={builds[name]}" for name in sorted(builds)]


def installed_builds() -> dict[str, str]:
    """Return name and version of each of NVIDIA's builds beside this interpreter."""
    installed = {normalised(found.name) for found in distributions()}
    return {name: version(name) for name in installed if is_nvidia_build(name)}


def requirements(pyproject: str) -> list[str]:
    """Return the names that the package and its demo need, from the text of pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["demo"]]


def main() -> int:
    """Write both files; returns 1 when there is no torch to keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for both files")
    out = parser.parse_args().out
    try:
        version("torch")
    except PackageNotFoundError:
        print(f"error: expected a torch beside {sys.executable}, found none; is the base image NVIDIA's?")
        return 1
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for file, lines in (
        ("constraints.txt", container_constraints(pins, installed_builds())),
        ("requirements.txt", names),
    ):
        (out / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
