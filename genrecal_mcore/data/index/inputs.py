"""What decides what an index holds, so that one is never used for other data than it was built from."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.sources import files_of

SETTINGS = ("max_tokens", "verify_images")
"""Keys of `data` that decide which samples pass."""


class _Inputs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceFile(_Inputs):
    """A file as it was when its records were found."""

    path: Path
    num_bytes: int
    mtime_ns: int

    def __str__(self) -> str:
        time = datetime.fromtimestamp(self.mtime_ns / 1e9, tz=UTC)
        return f"{self.num_bytes} bytes of {time:%Y-%m-%d %H:%M:%S.%f} UTC"

    def is_same(self, other: "SourceFile") -> bool:
        """Whether the file is the other one, wherever its folder is by now."""
        return (self.path.name, self.num_bytes, self.mtime_ns) == (
            other.path.name,
            other.num_bytes,
            other.mtime_ns,
        )


class SourceInputs(_Inputs):
    """A source of `data.sources`, with its files."""

    label: str
    domain: str | None
    files: tuple[SourceFile, ...]


class IndexInputs(_Inputs):
    """Everything that decides what an index holds."""

    sources: tuple[SourceInputs, ...]
    processors: dict[str, str | None]
    """Digest of each role's processor; None where the run has no such model."""
    settings: dict[str, bool | int]

    @cached_property
    def files(self) -> tuple[SourceFile, ...]:
        """All files in order; their numbers are what the index calls them by."""
        return tuple(file for source in self.sources for file in source.files)

    @cached_property
    def source_of_file(self) -> tuple[int, ...]:
        """The number of each file's source."""
        return tuple(number for number, source in enumerate(self.sources) for _ in source.files)


def inputs_of(data: DataConfig, processors: Mapping[str, ModelProcessor | None]) -> IndexInputs:
    """Return what an index of `data` is built from, as it is on this machine.

    Raises `ValueError` for a source without files, or with such as cannot be read by their kind.
    """
    return IndexInputs(
        sources=tuple(map(_source_inputs, data.sources)),
        processors={role: model.digest if model else None for role, model in processors.items()},
        settings={name: getattr(data, name) for name in SETTINGS},
    )


def _source_inputs(source: DataSource) -> SourceInputs:
    files = []
    for path in files_of(source):
        stat = path.stat()
        files.append(SourceFile(path=path, num_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns))
    return SourceInputs(label=source.label, domain=source.domain, files=tuple(files))


def difference(built: IndexInputs, now: IndexInputs) -> str | None:
    """Return the first way in which inputs differ as the end of "it was built ...", or None if they do not.

    Nothing but the name of a file counts of its path: an index goes with its data to another folder.
    """
    return next(_differences(built, now), None)


def _differences(built: IndexInputs, now: IndexInputs) -> Iterator[str]:
    labels, new_labels = ([source.label for source in inputs.sources] for inputs in (built, now))
    if labels != new_labels:
        yield f"from the sources {', '.join(labels)}, and data.sources are {', '.join(new_labels)}"
    for was, is_ in zip(built.sources, now.sources, strict=False):
        yield from _source_differences(was, is_)
    for role, digest in now.processors.items():
        yield from _processor_differences(role, built.processors.get(role), digest)
    for name, value in now.settings.items():
        if built.settings.get(name) != value:
            yield f"with data.{name} {built.settings.get(name)}, and it is {value}"


def _source_differences(was: SourceInputs, is_: SourceInputs) -> Iterator[str]:
    if was.domain != is_.domain:
        yield f"when the source {was.label} had the domain {was.domain}, and it has {is_.domain}"
    if len(was.files) != len(is_.files):
        yield f"when the source {was.label} had {len(was.files)} files, and it has {len(is_.files)}"
    for file, new_file in zip(was.files, is_.files, strict=False):
        if file.path.name != new_file.path.name:
            yield f"from {file.path.name} of the source {was.label}, where {new_file.path.name} is"
        if not file.is_same(new_file):
            yield f"when {file.path} of the source {was.label} had {file}, and it has {new_file}"


def _processor_differences(role: str, was: str | None, is_: str | None) -> Iterator[str]:
    if was == is_:
        return
    if was is None or is_ is None:
        present = "without" if was is None else "with"
        absent = "has one" if was is None else "has none"
        yield f"{present} a {role}, and this run {absent}"
    else:
        yield f"with another processor of the {role} (digest {was[:12]}, and it is {is_[:12]})"
