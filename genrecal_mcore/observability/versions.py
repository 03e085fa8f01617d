"""The content of `versions.txt`: which software made a run."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTIONS = (
    "genrecal-mcore",
    "torch",
    "megatron-core",
    "transformers",
    "peft",
    "safetensors",
    "numpy",
    "pillow",
    "transformer-engine",
    "apex",
)


def versions_text() -> str:
    """Return a `name version` line each for Python, the platform, the libraries and the git commit."""
    lines = [
        f"python {platform.python_version()} ({sys.implementation.name})",
        f"platform {platform.platform()}",
    ]
    lines += [f"{name} {_installed_version(name)}" for name in DISTRIBUTIONS]
    lines.append(f"git-commit {_git_commit(Path(__file__).parent)}")
    return "\n".join(lines) + "\n"


def _installed_version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _git_commit(folder: Path) -> str:
    """Return the commit of the checkout that holds `folder`, marked when tracked files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "unknown (git did not answer)"
    return found.stdout.strip() if found.returncode == 0 else "unknown (not a git checkout)"
