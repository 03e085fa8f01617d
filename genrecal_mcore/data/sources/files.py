"""Which files a source has: one, those of a folder, or those that a pattern matches."""

import re
from collections.abc import Iterator
from pathlib import Path

from genrecal_mcore.config import DataSource

FOLDER_SUFFIXES = (".parquet", ".tar")
"""Kinds that are published as folders of shards; the first that is found is taken."""
SUFFIXES = (".json", ".jsonl", *FOLDER_SUFFIXES)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def files_of(source: DataSource) -> tuple[Path, ...]:
    """Return the files of a source, in the order of their names.

    Its path is a file, a folder (every parquet or tar file below it), or a pattern with `*`, `?`, `[..]`,
    `{a,b}` or `{000..117}`. Raises `ValueError` when there is none, or they are not of one known kind.
    """
    path = source.path
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = _files_below(path)
    else:
        anchor = Path(path.anchor)
        patterns = expand_braces(str(path.relative_to(anchor)))
        files = sorted({file for pattern in patterns for file in anchor.glob(pattern)})
    if not files:
        raise ValueError(
            f"data.sources: {path} does not exist; expected a .json, .jsonl, .parquet or .tar file, a folder "
            "of .parquet or .tar files, or a pattern of file names"
        )
    _check_suffixes(path, files)
    return tuple(files)


def is_here(source: DataSource) -> bool:
    """Whether a source has files on this machine."""
    try:
        return bool(files_of(source))
    except ValueError:
        return False


def _files_below(folder: Path) -> list[Path]:
    for suffix in FOLDER_SUFFIXES:
        files = sorted(folder.rglob(f"*{suffix}"))
        if files:
            return files
    raise ValueError(
        f"data.sources: {folder} is a folder without .parquet or .tar files; name the file, or a pattern "
        f"such as {folder / '*.jsonl'}"
    )


def _check_suffixes(path: Path, files: list[Path]) -> None:
    suffixes = {file.suffix.lower() for file in files}
    unknown = sorted(suffixes - set(SUFFIXES))
    if unknown:
        raise ValueError(
            f"data.sources: {path} has the suffix {unknown[0]!r}; expected one of {', '.join(SUFFIXES)}, not "
            "compressed, so that a sample can be read without those before it"
        )
    if len(suffixes) > 1:
        raise ValueError(
            f"data.sources: {path} matches {' and '.join(sorted(suffixes))} files; make a source of each"
        )


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the patterns that braces stand for: `{a,b}`, and `{08..10}`, which keeps the zeros."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    limits = _RANGE.fullmatch(found[1])
    if limits:
        first, last = limits.groups()
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = found[1].split(",")
    for choice in choices:
        yield from expand_braces(pattern[: found.start()] + choice + pattern[found.end() :])
