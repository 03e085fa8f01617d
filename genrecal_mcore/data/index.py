"""The door of the data room: every sample is checked once, and broken ones are left out the same way
everywhere.

Each rank checks a share; the results are merged, so that all ranks hold the same list in the same order.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data.images import opened_image
from genrecal_mcore.data.llava import BrokenSample, build_sample, read_source
from genrecal_mcore.data.processor import ImageSize, ModelProcessor
from genrecal_mcore.data.shared_tokens import SharedTokens, shared_tokens
from genrecal_mcore.data.types import RenderedSample, Sample

Gather = Callable[[list[Any]], list[list[Any]]]
"""Gives every rank the lists of all ranks, in rank order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedSample:
    """A sample that is left out, and why."""

    id: str
    source: str
    number: int
    """Line or item number in the source's file, counted from 1."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFacts:
    """What the door learnt of a sample; the rest of the run needs no second look."""

    image_sizes: tuple[ImageSize, ...]
    teacher_tokens: int
    teacher_answer_tokens: int
    student_tokens: int
    student_answer_tokens: int
    shared_tokens: SharedTokens
    """Where both models read the same token ids; `none` also where there is no teacher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleIndex:
    """All samples that passed, in file order, and those that did not."""

    samples: tuple[Sample, ...]
    facts: tuple[SampleFacts, ...]
    skipped: tuple[SkippedSample, ...]
    digest: str
    """sha256 over the samples that passed and the processors: the identity of the data."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each sample in the tokenizer that needs more of them."""
        return tuple(max(facts.student_tokens, facts.teacher_tokens) for facts in self.facts)

    def __getitem__(self, number: int) -> Sample:
        return self.samples[number]


def build_index(
    data: DataConfig,
    processors: Mapping[str, ModelProcessor | None],
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Gather | None = None,
) -> SampleIndex:
    """Check every sample of every source with the processors of `teacher` and `student` (collective with
    `gather`).

    Raises `ValueError` for a file that is missing, not JSON or of another length on other ranks, and when
    more than `data.max_skipped_share` of the samples are broken, with counts by reason.
    """
    records = [(source, number, record) for source in data.sources for number, record in read_source(source)]
    share = [_check(data, processors, *entry) for entry in records[rank::world_size]]
    shares = gather(share) if gather is not None else [share]
    _refuse_other_files(shares, len(records))
    checked = [shares[i % world_size][i // world_size] for i in range(len(records))]
    passed = [entry for entry in checked if not isinstance(entry, SkippedSample)]
    skipped = tuple(entry for entry in checked if isinstance(entry, SkippedSample))
    _refuse_too_many(skipped, len(records), data.max_skipped_share)
    samples = tuple(sample for sample, _ in passed)
    return SampleIndex(
        samples=samples,
        facts=tuple(facts for _, facts in passed),
        skipped=skipped,
        digest=_digest(samples, processors),
    )


def first_samples(
    data: DataConfig, processors: Mapping[str, ModelProcessor | None], *, num_records: int
) -> list[tuple[Sample, SampleFacts]]:
    """Check the first records of the data alone; broken ones are left out."""
    records = ((source, number, record) for source in data.sources for number, record in read_source(source))
    checked = (_check(data, processors, *entry) for entry in islice(records, num_records))
    return [entry for entry in checked if not isinstance(entry, SkippedSample)]


def draw_samples(
    data: DataConfig, processors: Mapping[str, ModelProcessor | None], *, num_samples: int
) -> list[tuple[Sample, SampleFacts]]:
    """Check records of all sources in a fixed random order until `num_samples` are whole.

    Raises `ValueError` when there are not as many.
    """
    records = [(source, number, record) for source in data.sources for number, record in read_source(source)]
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(records))
    checked = (_check(data, processors, *records[i]) for i in order)
    whole = (entry for entry in checked if not isinstance(entry, SkippedSample))
    drawn = list(islice(whole, num_samples))
    if len(drawn) < num_samples:
        raise ValueError(
            f"{num_samples} samples were asked for, but the data has {len(drawn)} whole ones; ask for fewer "
            "or name other data"
        )
    return drawn


def write_skipped(path: Path, index: SampleIndex) -> None:
    """Write one line of JSON for each sample that was left out."""
    path.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in index.skipped), encoding="utf-8")


def count_reasons(reasons: Iterable[str]) -> str:
    """Return the commonest reasons with how often each occurs, whatever names and numbers they hold."""
    kinds = Counter(re.sub(r"\d+", "N", reason.partition(":")[0]) for reason in reasons)
    return "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common(5))


def _check(
    data: DataConfig,
    processors: Mapping[str, ModelProcessor | None],
    source: DataSource,
    number: int,
    record: Any,
) -> tuple[Sample, SampleFacts] | SkippedSample:
    try:
        sample = build_sample(record, source, number=number)
        sizes = tuple(_image_size(path, verify=data.verify_images) for path in sample.images)
        rendered = {role: _render(model, sample, sizes, data) for role, model in processors.items()}
    except BrokenSample as error:
        record_id = record.get("id", "") if isinstance(record, dict) else ""
        name = source.name or source.path.stem
        return SkippedSample(id=str(record_id), source=name, number=number, reason=str(error))
    return sample, _facts(sizes, rendered["teacher"], rendered["student"])


def _facts(
    sizes: tuple[ImageSize, ...], teacher: RenderedSample | None, student: RenderedSample | None
) -> SampleFacts:
    return SampleFacts(
        image_sizes=sizes,
        teacher_tokens=len(teacher.input_ids) if teacher else 0,
        teacher_answer_tokens=teacher.num_answer_tokens if teacher else 0,
        student_tokens=len(student.input_ids) if student else 0,
        student_answer_tokens=student.num_answer_tokens if student else 0,
        shared_tokens=shared_tokens(teacher, student) if teacher and student else "none",
    )


def _image_size(path: Path, *, verify: bool) -> ImageSize:
    with opened_image(path) as image:
        if verify:
            image.load()
        return image.size


def _render(
    processor: ModelProcessor | None, sample: Sample, sizes: Sequence[ImageSize], data: DataConfig
) -> RenderedSample | None:
    """Return a sample as one model reads it; None where there is no such model."""
    if processor is None:
        return None
    rendered = processor.render(sample, sizes)
    if len(rendered.input_ids) > data.max_tokens:
        found = len(rendered.input_ids)
        raise BrokenSample(f"{found} tokens are more than data.max_tokens ({data.max_tokens})")
    return rendered


def _refuse_other_files(shares: Sequence[Sequence[Any]], num_records: int) -> None:
    for rank, share in enumerate(shares):
        expected = len(range(rank, num_records, len(shares)))
        if len(share) != expected:
            raise ValueError(
                f"data.sources: this rank read {num_records} records, so rank {rank} should have checked "
                f"{expected}, but it checked {len(share)}; give every node the same files"
            )


def _refuse_too_many(skipped: Sequence[SkippedSample], num_records: int, max_share: float) -> None:
    if not num_records:
        raise ValueError("data.sources hold no samples; name files with at least one")
    if num_records == len(skipped) or len(skipped) > max_share * num_records:
        counts = count_reasons(entry.reason for entry in skipped)
        first = ", ".join(f"{entry.source} number {entry.number}" for entry in skipped[:3])
        raise ValueError(
            f"{len(skipped)} of {num_records} samples are broken, more than data.max_skipped_share "
            f"({max_share:g}) allows: {counts}. The first: {first}. Repair them or raise the share"
        )


def _digest(samples: Sequence[Sample], processors: Mapping[str, ModelProcessor | None]) -> str:
    digest = sha256()
    for sample in samples:
        digest.update(repr((sample.id, sample.image_names, sample.turns, sample.source)).encode())
    for role in sorted(processors):
        processor = processors[role]
        digest.update(f"{role}:{processor.digest if processor else ''}".encode())
    return digest.hexdigest()
