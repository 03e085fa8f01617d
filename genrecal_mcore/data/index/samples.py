"""All samples that passed, on disk: any of them, and what is known of it, by its number.

Arrays are mapped into memory, not read: opening an index costs the same for any number of samples.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import numpy as np

from genrecal_mcore.config import DataConfig
from genrecal_mcore.data.index.inputs import IndexInputs
from genrecal_mcore.data.index.layout import (
    COLUMNS,
    COUNTS,
    SKIPPED_NAME,
    IndexManifest,
    SkippedSample,
    count_reasons,
    open_column,
    read_manifest,
    read_skipped,
)
from genrecal_mcore.data.llava import read_sample
from genrecal_mcore.data.processor import ImageSize
from genrecal_mcore.data.shared_tokens import SHARED_TOKENS, SharedTokens
from genrecal_mcore.data.sources import Record
from genrecal_mcore.data.types import Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFacts:
    """What the door learnt of a sample; the rest of the run needs no second look."""

    image_sizes: tuple[ImageSize, ...]
    teacher_tokens: int
    teacher_answer_tokens: int
    student_tokens: int
    student_answer_tokens: int
    num_answers: int
    shared_tokens: SharedTokens
    """Where both models read the same token ids; `none` also where there is no teacher."""


class SampleIndex:
    """The samples of an index in the order of sources, files and records; see `open_index`."""

    def __init__(self, folder: Path, data: DataConfig, inputs: IndexInputs, manifest: IndexManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._sources = [data.sources[number] for number in inputs.source_of_file]
        self._files = [file.path for file in inputs.files]
        self._columns = {name: open_column(folder, name) for name in COLUMNS}

    def __len__(self) -> int:
        return sum(self.manifest.num_samples)

    def __getitem__(self, number: int) -> Sample:
        """Read a sample from its source."""
        return read_sample(self.record(number))

    def record(self, number: int) -> Record:
        """Return where a sample lies."""
        file, first, second, record_number = self._columns["places"][number].tolist()
        return Record(
            source=self._sources[file], file=self._files[file], place=(first, second), number=record_number
        )

    def image_sizes(self, number: int) -> tuple[ImageSize, ...]:
        """Return width and height of each image of a sample."""
        first, end = self._columns["first_image"][number : number + 2].tolist()
        return tuple((width, height) for width, height in self._columns["image_sizes"][first:end].tolist())

    def facts(self, number: int) -> SampleFacts:
        """Return what the door learnt of a sample."""
        counts = dict(zip(COUNTS, self._columns["counts"][number].tolist(), strict=True))
        shared = SHARED_TOKENS[self._columns["shared_tokens"][number]]
        return SampleFacts(image_sizes=self.image_sizes(number), shared_tokens=shared, **counts)

    def digest_of(self, number: int) -> bytes:
        """Return the digest of a sample's content: other text, other images or another id, another digest."""
        return self._columns["digests"][number].tobytes()

    @property
    def digest(self) -> str:
        """Identity of the data: a sha256 over the samples and the processors."""
        return self.manifest.digest

    @property
    def tokens(self) -> np.ndarray:
        """`[n]` int32 tokens of each sample in the tokenizer that needs more of them."""
        return self._columns["tokens"]

    def counts(self, name: str) -> np.ndarray:
        """Return one of `COUNTS` of each sample, `[n]` int32."""
        return self._columns["counts"][:, COUNTS.index(name)]

    @property
    def teacher_tokens(self) -> np.ndarray:
        """`[n]` int32 tokens of each sample in the teacher's tokenizer."""
        return self.counts("teacher_tokens")

    @property
    def student_tokens(self) -> np.ndarray:
        """`[n]` int32 tokens of each sample in the student's tokenizer."""
        return self.counts("student_tokens")

    @property
    def domains(self) -> np.ndarray:
        """`[n]` int32 the domain of each sample, as its number in `domain_names`."""
        return self._columns["domains"]

    @property
    def domain_names(self) -> tuple[str | None, ...]:
        """The domains that samples have; None where some have none."""
        return self.manifest.domains

    def samples_of_source(self, number: int) -> range:
        """Return the numbers of a source's samples, which are consecutive."""
        first = sum(self.manifest.num_samples[:number])
        return range(first, first + self.manifest.num_samples[number])

    def total_counts(self, numbers: np.ndarray) -> dict[str, int]:
        """Return what samples count together, by the names of `COUNTS`."""
        sums = self._columns["counts"][numbers].sum(0, dtype=np.int64)
        return dict(zip(COUNTS, sums.tolist(), strict=True))

    def first_sharing(self, kinds: Collection[SharedTokens]) -> int | None:
        """Return the first sample whose tokens both models share in one of these ways, if there is any."""
        numbers = [SHARED_TOKENS.index(kind) for kind in kinds]
        is_found = np.isin(self._columns["shared_tokens"], numbers)
        return int(is_found.argmax()) if is_found.any() else None

    @property
    def num_skipped(self) -> int:
        """How many records were left out."""
        return sum(self.manifest.num_skipped)

    def copy_skipped(self, path: Path) -> None:
        """Write one line of JSON for each record that was left out."""
        copyfile(self.folder / SKIPPED_NAME, path)

    @property
    def skipped(self) -> tuple[SkippedSample, ...]:
        """The records that were left out, read from the index's folder."""
        return tuple(read_skipped(self.folder))


def open_index(folder: Path, data: DataConfig, inputs: IndexInputs) -> SampleIndex:
    """Open the index of `data`, whose files `inputs` names as they are now.

    Raises `ValueError` when it is damaged, and when more than `data.max_skipped_share` of the records were
    left out, with counts by reason.
    """
    index = SampleIndex(folder, data, inputs, read_manifest(folder))
    num_records = len(index) + index.num_skipped
    if len(index) and index.num_skipped <= data.max_skipped_share * num_records:
        return index
    skipped = index.skipped
    counts = count_reasons(entry.reason for entry in skipped)
    first = ", ".join(map(str, skipped[:3]))
    raise ValueError(
        f"{len(skipped)} of {num_records} samples are broken, more than data.max_skipped_share "
        f"({data.max_skipped_share:g}) allows: {counts}. The first: {first}. Repair them or raise the share"
    )
