"""The door of a feature cache: whether it is the run's, and which samples it lacks.

Refuses before training what would be found in the middle of it: another teacher, samples that are not there.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrecal_mcore.config import RunConfig, load_teacher_manifest
from genrecal_mcore.data import SampleIndex, load_processor, sample_keys
from genrecal_mcore.feature_cache import (
    CacheContents,
    CacheRecord,
    FeatureReader,
    check_record,
    create_record,
    has_record,
    load_record,
    read_contents,
    remove_partial_shards,
)
from genrecal_mcore.training.cache_need import CacheNeed
from genrecal_mcore.training.joining import RankSetup, decided_by_first_rank, gather_over_world
from genrecal_mcore.training.stages import stage_of

logger = logging.getLogger(__name__)

IDENTITY = ("teacher", "processor", "dtype", "hidden_size")
"""Fields of a record that decide the rows themselves; `rows` says which of them there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheToRead:
    """A cache that holds every sample of a run."""

    reader: FeatureReader
    record: CacheRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheToWrite:
    """A cache that a job fills."""

    folder: Path
    keys: np.ndarray
    """`[num_samples]`: the key of each sample, by number."""
    is_missing: np.ndarray
    """`[num_samples]` bool: whether it was not there when the job began."""


def record_of(config: RunConfig) -> CacheRecord:
    """Return what a cache of a run's teacher says of itself."""
    assert config.teacher is not None
    folder = config.teacher.checkpoint
    manifest = load_teacher_manifest(folder)
    return CacheRecord(
        teacher=manifest.digest(),
        processor=load_processor(folder / "tokenizer", manifest.family).digest,
        dtype=manifest.dtype,
        hidden_size=manifest.language.hidden_size,
        rows=config.teacher.cache_rows,
    )


def check_caches(config: RunConfig) -> None:
    """Raise `ValueError` for a cache that belongs to another teacher or lacks rows that the stage needs.

    Looks at its record alone; which samples it holds is seen with the data.
    """
    if config.teacher is None:
        return
    read, write = config.teacher.read_cache, config.teacher.write_cache
    if write is not None and has_record(write):
        check_record(write, record_of(config), fields=(*IDENTITY, "rows"))
    if read is None:
        return
    record = check_record(read, record_of(config), fields=IDENTITY)
    if stage_of(config).with_questions and not record.with_questions:
        raise ValueError(
            f"teacher.read_cache: {read} holds the rows of answers, but stage {config.stage} as configured "
            "needs those of questions too; write a cache with teacher.cache_rows=all"
        )


def set_up_cache(
    config: RunConfig, index: SampleIndex, setup: RankSetup, *, world_size: int
) -> CacheToRead | CacheToWrite | None:
    """Open the cache that a run reads or fills, if it names one (collective over the world).

    Raises `ValueError` for a cache to read that lacks samples.
    """
    teacher = config.teacher
    if teacher is None or teacher.read_cache is None and teacher.write_cache is None:
        return None
    setup.status.at("looks into the feature cache, with all ranks")
    keys = sample_keys(index, rank=setup.rank, world_size=world_size, gather=gather_over_world)
    if teacher.read_cache is not None:
        return open_cache(teacher.read_cache, index, keys)
    return begin_cache(config, index, keys, rank=setup.rank, must_have_room=False)


def open_cache(folder: Path, index: SampleIndex, keys: np.ndarray) -> CacheToRead:
    """Return a cache that holds every sample of `index`, whose keys are `keys`.

    Raises `ValueError` with the number of samples that it lacks, the first of them, and what to do.
    """
    contents = contents_of(folder)
    reader = FeatureReader(contents, keys)
    missing = reader.missing
    if len(missing):
        first = index[int(missing[0])]
        raise ValueError(
            f"teacher.read_cache: {folder} lacks {len(missing)} of {len(index)} samples, the first is "
            f"{first.id} of {first.source}; genrecal cache CONFIG --out {folder}, with teacher ranks in "
            f"mesh.teacher, adds them{''.join(f'; {damage}' for damage in contents.damages)}"
        )
    return CacheToRead(reader=reader, record=load_record(folder))


def begin_cache(
    config: RunConfig, index: SampleIndex, keys: np.ndarray, *, rank: int, must_have_room: bool
) -> CacheToWrite:
    """Make the folder of a cache if it is not there, and say what it lacks (collective over the world).

    Rank 0 looks for all: no rank takes for old what another one has just written. Raises `ValueError` where
    the folder cannot be written and, with `must_have_room`, when what it lacks does not fit onto the disk.
    """
    assert config.teacher is not None and config.teacher.write_cache is not None
    folder, record = config.teacher.write_cache, record_of(config)

    def prepare() -> np.ndarray:
        is_missing = contents_of(folder).shards_of(keys) < 0
        need = CacheNeed.of(folder, index, record, keys=keys, is_missing=is_missing)
        if must_have_room:
            need.check_room()
        logger.info("%s", need.describe())
        try:
            create_record(folder, record)
            remove_partial_shards(folder)
        except OSError as error:
            raise ValueError(f"the feature cache {folder} cannot be written: {error}") from None
        return is_missing

    is_missing = decided_by_first_rank(prepare, rank=rank)
    return CacheToWrite(folder=folder, keys=keys, is_missing=is_missing)


def contents_of(folder: Path) -> CacheContents:
    """Return what a cache holds; files that are damaged are logged."""
    contents = read_contents(folder)
    for damage in contents.damages:
        logger.warning("%s: its samples count as missing", damage)
    return contents
