"""A pass over a data set that only writes the teacher's features: `genrecal cache`.

Teacher ranks do what they do in training. Student ranks hold no model: they receive rows and write them.
"""

import logging
from itertools import groupby
from pathlib import Path

import numpy as np

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import (
    Microbatch,
    OnceOrder,
    SampleIndex,
    UnitLoader,
    batch_shape,
    sample_keys,
    sample_order,
)
from genrecal_mcore.observability import CountLine, size_text
from genrecal_mcore.parallel import Layout
from genrecal_mcore.training.ahead import begun_ahead
from genrecal_mcore.training.cache_setup import CacheToWrite, begin_cache, check_caches
from genrecal_mcore.training.channels import written_features
from genrecal_mcore.training.ending import RunPreempted
from genrecal_mcore.training.job import Job, check_teacher, checked_data, made_topology
from genrecal_mcore.training.joining import RankSetup, gather_over_world, joined_job, layout_of_job
from genrecal_mcore.training.run import run_teacher_rank
from genrecal_mcore.training.stages import stage_of_cache
from genrecal_mcore.training.tracing import begin_trace
from genrecal_mcore.training.written_features import WrittenFeatures
from genrecal_mcore.transfer import Unit

logger = logging.getLogger(__name__)


def write_feature_cache(config: RunConfig, *, stop_file: Path | None = None) -> None:
    """Add every sample that `teacher.write_cache` lacks, as one rank of the job that torchrun started.

    Logs and what ranks do go to `run.dir`. As soon as `stop_file` exists the pass ends after the step in
    work, writes what it has, and `RunPreempted` is raised; started again, it goes on with what is missing.
    Raises `ValueError` for a teacher or a cache that does not fit and for a disk without room, and
    `RuntimeError` for a pass that broke.
    """
    layout = layout_of_job(config)
    check_teacher(config, layout)
    check_caches(config)
    with joined_job(config, layout, stop_file) as setup:
        job = set_up_pass(config, layout, setup)
        if job is None:
            logger.info("every sample is there")
        elif job.topology.is_teacher:
            run_teacher_rank(job)
        else:
            run_receiving_rank(job)


def set_up_pass(config: RunConfig, layout: Layout, setup: RankSetup) -> Job | None:
    """Find what is missing and make the groups; None when nothing is (collective over the world)."""
    processors, index = checked_data(config, layout, setup, is_fresh=False)
    setup.status.at("looks into the feature cache, with all ranks")
    keys = sample_keys(index, rank=setup.rank, world_size=layout.world_size, gather=gather_over_world)
    cache = begin_cache(config, index, keys, rank=setup.rank, must_have_room=True)
    order, batch = order_of_missing(config, index, cache), batch_shape(config)
    if not len(order.numbers):
        return None
    topology = made_topology(layout, setup)
    begin_trace(config, setup.status, first_step=0)
    return Job(
        config=config,
        stage=stage_of_cache(config),
        topology=topology,
        index=index,
        order=order,
        batch=batch,
        processors=processors,
        checkpoint=None,
        first_step=0,
        last_step=order.num_steps(batch),
        cache=cache,
        status=setup.status,
        stop=setup.stop,
    )


def order_of_missing(config: RunConfig, index: SampleIndex, cache: CacheToWrite) -> OnceOrder:
    """Return the samples that a cache lacks, equal ones once, in the order of the run's first epoch.

    Of an empty cache the units are those of the run's first epoch, so that even what rounds by the other
    samples of a unit is as in a run with teacher ranks.
    """
    order = sample_order(config, index)
    # Weights and exclusions leave samples out of a first epoch's draws, but a cache to read must hold all.
    numbers = np.concatenate([order.samples_at(0, len(index)), np.arange(len(index), dtype=np.int32)])
    numbers = numbers[cache.is_missing[numbers]]
    _, firsts = np.unique(cache.keys[numbers], return_index=True)
    return OnceOrder(tokens=index.tokens, numbers=numbers[np.sort(firsts)])


def run_receiving_rank(job: Job) -> None:
    """Receive this student rank's units and write them.

    Raises `RuntimeError` when the cache cannot be written, and `RunPreempted` when it was asked to stop.
    """
    assert isinstance(job.cache, CacheToWrite)
    features = written_features(job, job.cache)
    try:
        with job.loader(job.units_of_student(), job.view("teacher", with_pixels=False)) as loader:
            receive_units(job, loader, features)
    finally:
        job.status.at("writes its last features")
        features.close()
    refuse_problem(features)
    writer = features.writer
    logger.info("wrote %d samples, %s", writer.samples_written, size_text(writer.bytes_written))


def receive_units(job: Job, loader: UnitLoader, features: WrittenFeatures) -> None:
    """Take one unit after another, step by step."""
    group = job.topology.student_group
    assert group is not None and isinstance(job.order, OnceOrder)

    def begin(unit: Unit) -> Microbatch:
        (batch,) = loader.load(unit)
        features.begin(unit, batch)
        return batch

    begun = begun_ahead(job.units_of_student(), begin, depth=job.config.transfer.prefetch)
    line = CountLine(title="feature cache", total=len(job.order.numbers), is_shown=group.rank() == 0)
    with line:
        for step, units in groupby(begun, key=lambda begun_unit: begun_unit[0].step):
            for unit, batch in units:
                features.take(unit, batch)
                refuse_problem(features)
            line.advance(len(job.order.samples_of_step(step, job.batch)))
            # In the last step some ranks may have no unit, and would not be there to agree.
            if step < job.last_step - 1 and job.stop.all_reduce_is_made(group, job.topology.device):
                raise RunPreempted(f"stopped as asked, {step + 1} of {job.last_step} steps are done")


def refuse_problem(features: WrittenFeatures) -> None:
    """Raise `RuntimeError` when rows could not be written: nothing else is done here."""
    if features.writer.problem is not None:
        raise RuntimeError(f"the feature cache could not be written: {features.writer.problem}")
