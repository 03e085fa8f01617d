"""Looks at one record as both models will see it, once: it passes, or it is left out with a reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from genrecal_mcore.config import DataConfig
from genrecal_mcore.data.images import identity_of, opened_image
from genrecal_mcore.data.index.layout import DIGEST_BYTES, SkippedSample
from genrecal_mcore.data.index.samples import SampleFacts
from genrecal_mcore.data.llava import build_sample
from genrecal_mcore.data.processor import ImageSize, ModelProcessor
from genrecal_mcore.data.shared_tokens import shared_tokens
from genrecal_mcore.data.sources import RawRecord, Record, read_record
from genrecal_mcore.data.types import BrokenSample, RenderedSample, Sample, SampleImage


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedSample:
    """A sample that passed."""

    sample: Sample
    facts: SampleFacts
    digest: bytes


def check_record(
    record: Record, data: DataConfig, processors: Mapping[str, ModelProcessor | None]
) -> CheckedSample | SkippedSample:
    """Read and render a record with the processors of `teacher` and `student`.

    Raises `ValueError` when its file is damaged, which is more than one broken sample.
    """
    raw = RawRecord(fields=None)
    try:
        raw = read_record(record)
        sample = build_sample(raw, record)
        sizes = tuple(_image_size(image, verify=data.verify_images) for image in sample.images)
        teacher, student = (_render(processors[role], sample, sizes, data) for role in ("teacher", "student"))
        digest = _digest_of(sample)
    except BrokenSample as error:
        return _skipped(record, raw, error)
    return CheckedSample(sample=sample, facts=_facts(sample, sizes, teacher, student), digest=digest)


def _facts(
    sample: Sample,
    sizes: tuple[ImageSize, ...],
    teacher: RenderedSample | None,
    student: RenderedSample | None,
) -> SampleFacts:
    return SampleFacts(
        image_sizes=sizes,
        teacher_tokens=len(teacher.input_ids) if teacher else 0,
        teacher_answer_tokens=teacher.num_answer_tokens if teacher else 0,
        student_tokens=len(student.input_ids) if student else 0,
        student_answer_tokens=student.num_answer_tokens if student else 0,
        num_answers=len(sample.turns),
        shared_tokens=shared_tokens(teacher, student) if teacher and student else "none",
    )


def _skipped(record: Record, raw: RawRecord, error: BrokenSample) -> SkippedSample:
    record_id = raw.fields.get("id", "") if isinstance(raw.fields, dict) else ""
    return SkippedSample(
        id=str(record_id),
        source=record.source.label,
        file=None if record.file == record.source.path else record.file.name,
        number=record.number,
        reason=str(error),
    )


def _image_size(image: SampleImage, *, verify: bool) -> ImageSize:
    with opened_image(image) as opened:
        if verify:
            opened.load()
        return opened.size


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


def _digest_of(sample: Sample) -> bytes:
    images = tuple(map(identity_of, sample.images))
    content = repr((sample.id, images, sample.turns, sample.source))
    return sha256(content.encode()).digest()[:DIGEST_BYTES]
