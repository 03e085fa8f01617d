"""What the configuration of a run makes of this room: processors, index, order, the cut of a step."""

from pathlib import Path

import numpy as np

from genrecal_mcore.config import DataConfig, RunConfig, load_teacher_manifest
from genrecal_mcore.data.index import ALONE, Builders, SampleIndex, prepare_index
from genrecal_mcore.data.mixture import SourceShare
from genrecal_mcore.data.order import BatchShape, SampleOrder
from genrecal_mcore.data.processor import ModelProcessor, load_processor


def load_processors(config: RunConfig) -> dict[str, ModelProcessor | None]:
    """Load the processors of `student` and, where there is one, `teacher`."""
    teacher, finds = None, config.recalibrator.student_answers
    if config.teacher is not None:
        family = load_teacher_manifest(config.teacher.checkpoint).family
        teacher = load_processor(config.teacher.checkpoint / "tokenizer", family, finds_text_ends=finds)
    student = load_processor(config.student.checkpoint, finds_text_ends=finds)
    return {"teacher": teacher, "student": student}


def index_folder(config: RunConfig) -> Path:
    """Return where a run's index is: where `data.index` says, or in the run folder."""
    return config.data.index or config.run.dir / "index"


def index_of_run(
    config: RunConfig,
    processors: dict[str, ModelProcessor | None],
    *,
    is_fresh: bool = False,
    builders: Builders = ALONE,
) -> SampleIndex:
    """Open a run's index, or build it (collective); see `prepare_index`.

    Only a fresh run replaces one of other data, and only the one in its own folder.
    """
    may_replace = is_fresh and config.data.index is None
    folder = index_folder(config)
    return prepare_index(folder, config.data, processors, may_replace=may_replace, builders=builders)


def sample_order(config: RunConfig, index: SampleIndex) -> SampleOrder:
    """Return the order in which a run takes the samples of an index.

    Raises `ValueError` for a domain in `data.exclude_domains` that no sample has, and when no sample is left.
    """
    data, identity = config.data, index.digest
    if data.exclude_domains:
        identity += f", without {' '.join(sorted(data.exclude_domains))}"
    shares = source_shares(data, index)
    return SampleOrder(index.tokens, config.train.seed, identity, data.length_window, shares)


def source_shares(data: DataConfig, index: SampleIndex) -> list[SourceShare]:
    """Return what is drawn of each source; one whose domains are all excluded is left out.

    Raises as `sample_order` does, and for a weight of a source without samples.
    """
    is_excluded = np.isin(np.arange(len(index.domain_names)), _excluded_numbers(data, index))
    shares = []
    for number, source in enumerate(data.sources):
        own = index.samples_of_source(number)
        samples = np.arange(own.start, own.stop, dtype=np.int32)
        if source.weight is not None and not len(samples):
            raise ValueError(
                f"data.sources: {source.label} has weight {source.weight}, but none of its samples passed; "
                "repair it or leave it out"
            )
        if data.exclude_domains:
            samples = samples[~is_excluded[index.domains[own.start : own.stop]]]
        if len(samples):
            shares.append(SourceShare(name=source.label, samples=samples, weight=source.weight))
    if not shares:
        raise ValueError("data.exclude_domains leaves no sample; exclude fewer domains")
    return shares


def _excluded_numbers(data: DataConfig, index: SampleIndex) -> list[int]:
    unknown = [domain for domain in data.exclude_domains if domain not in index.domain_names]
    if unknown:
        known = ", ".join(sorted(name for name in index.domain_names if name)) or "none"
        raise ValueError(
            f"data.exclude_domains: no sample has the domain {', '.join(unknown)}; the domains are {known}"
        )
    return [index.domain_names.index(domain) for domain in data.exclude_domains]


def batch_shape(config: RunConfig) -> BatchShape:
    """Return how the samples of a step are cut into units."""
    return BatchShape(
        micro_batch_size=config.train.micro_batch_size,
        accumulation_steps=config.train.accumulation_steps,
        student_dp=config.mesh.student.dp,
        unit_tokens=config.train.micro_batch_tokens,
    )
