"""A benchmark's file by the name it goes by, and which reader reads it."""

import re
from dataclasses import dataclass
from pathlib import Path

from genrecal_mcore.evaluation.benchmarks import benchmark_named
from genrecal_mcore.evaluation.files.conversations import read_conversations
from genrecal_mcore.evaluation.files.mm_vet import read_mm_vet
from genrecal_mcore.evaluation.files.reading import Reading
from genrecal_mcore.evaluation.files.tsv_questions import read_tsv_questions


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkFile:
    """A file to take questions from."""

    name: str
    """Says which benchmark it is; its results are called so."""
    path: Path
    images_dir: Path
    """Where images with a relative path are."""

    @classmethod
    def parse(cls, text: str, *, images_dir: Path | None = None) -> "BenchmarkFile":
        """Parse `FILE` or `NAME=FILE`; images are beside the file unless a folder is named.

        Raises `ValueError` when there is no such file.
        """
        path, name = Path(text), Path(text).stem
        if not path.is_file() and "=" in text:
            name, _, file = text.partition("=")
            path = Path(file)
        if not path.is_file():
            raise ValueError(f"--benchmark {text}: {path} does not exist; expected FILE or NAME=FILE")
        if path.suffix not in (".tsv", ".json", ".jsonl"):
            raise ValueError(
                f"--benchmark {text}: expected a .tsv file as VLMEvalKit has them, or .json or .jsonl in the "
                f"LLaVA format, found {path.suffix!r}"
            )
        if not re.fullmatch(r"\w[\w.+ -]*", name):
            raise ValueError(f"--benchmark {text}: {name!r} is no name for a folder of results")
        return cls(name=name, path=path, images_dir=images_dir or path.parent)


def read_questions(file: BenchmarkFile) -> Reading:
    """Read a file by the reader of its format; raises `ValueError` when it is not of that format."""
    if file.path.suffix == ".tsv":
        return read_tsv_questions(file.name, file.path, images_dir=file.images_dir)
    benchmark = benchmark_named(file.name)
    if file.path.suffix == ".json" and benchmark is not None and benchmark.has_own_json:
        return read_mm_vet(benchmark, file.path, images_dir=file.images_dir)
    return read_conversations(file.path, images_dir=file.images_dir)
