"""Sets up a job on one rank: checks before anything is written, the process group, the data, the topology.

What the rank then does is in `run`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch.distributed as dist

from genrecal_mcore.config import RunConfig, load_teacher_manifest, validate_teacher_folder
from genrecal_mcore.data import (
    BatchShape,
    Builders,
    ModelProcessor,
    Ranks,
    SampleIndex,
    StepOrder,
    UnitLoader,
    View,
    batch_shape,
    check_index_shares_tokens,
    check_shared_tokens,
    check_vocabularies,
    first_samples,
    index_of_run,
    load_processors,
    num_microbatches,
    sample_order,
    samples_of_unit,
    unit_samples,
)
from genrecal_mcore.layouts import open_checkpoint
from genrecal_mcore.models import check_student_folder
from genrecal_mcore.native import model_config
from genrecal_mcore.observability import CountLine
from genrecal_mcore.parallel import Layout, Topology, build_topology
from genrecal_mcore.status import RankStatus
from genrecal_mcore.training.agreement import check_same_plan, plan_digests
from genrecal_mcore.training.cache_setup import CacheToRead, CacheToWrite, check_caches, set_up_cache
from genrecal_mcore.training.checkpoint import checkpoints_of, latest_checkpoint, read_run_state
from genrecal_mcore.training.ending import StopRequest
from genrecal_mcore.training.integrity import newest_whole
from genrecal_mcore.training.joining import RankSetup, decided_by_first_rank
from genrecal_mcore.training.stages import Stage, stage_of
from genrecal_mcore.training.tracing import begin_trace
from genrecal_mcore.transfer import RoutePlan, Unit, edges, units_of_replica, units_of_student

NUM_TRIAL_RECORDS = 8
"""Records that are looked at before a job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every rank knows once the job is set up."""

    config: RunConfig
    stage: Stage
    topology: Topology
    index: SampleIndex
    order: StepOrder
    batch: BatchShape
    processors: dict[str, ModelProcessor | None]
    checkpoint: Path | None
    """Where a resumed run goes on from; None for a fresh one."""
    first_step: int
    """The step that this start of the run begins with."""
    last_step: int
    """The step before which it ends."""
    cache: CacheToRead | CacheToWrite | None
    """Feature cache that stands in for the teacher ranks, or that they fill."""
    status: RankStatus
    stop: StopRequest

    def view(self, role: str, *, with_pixels: bool) -> View:
        """Return how `role` sees samples; the teacher's view is padded as its mesh needs it."""
        processor, teacher = self.processors[role], self.topology.layout.teacher
        assert processor is not None
        multiple = teacher.pad_to_multiple_of if teacher is not None and role == "teacher" else 1
        return View(processor=processor, with_pixels=with_pixels, pad_to_multiple_of=multiple)

    def loader(self, planned: Iterable[Unit], *views: View) -> UnitLoader:
        """Return a loader that has started to load the planned units; to be closed."""
        return UnitLoader(
            (unit_samples(unit, self.index, self.order, self.batch) for unit in planned),
            views,
            num_workers=self.config.data.num_workers,
            pin_memory=self.topology.device.type == "cuda",
        )

    def num_microbatches(self, step: int) -> int:
        """Return how many microbatches a step has, the same on every rank."""
        return num_microbatches(self.order, step=step, batch=self.batch)

    @property
    def route_plan(self) -> RoutePlan:
        """Return who serves whom."""
        layout = self.topology.layout
        assert layout.teacher is not None
        return RoutePlan(
            accumulation_steps=self.batch.accumulation_steps,
            microbatches_of=None if self.batch.unit_tokens is None else self.num_microbatches,
            student_dp=layout.student.dp,
            teacher_dp=layout.teacher.dp,
        )

    def units_of_replica(self, replica: int) -> Iterator[Unit]:
        """Yield the units that a teacher replica serves, from the job's first step to the last."""
        units = units_of_replica(replica, self.route_plan, self.first_step, self.last_step)
        return (unit for unit in units if self._has_samples(unit))

    def units_of_student(self) -> Iterator[Unit]:
        """Yield this student rank's units from the job's first step to the last."""
        assert self.topology.student_group is not None
        units = units_of_student(
            self.topology.student_group.rank(),
            num_microbatches=self.num_microbatches,
            first_step=self.first_step,
            last_step=self.last_step,
        )
        return (unit for unit in units if self._has_samples(unit))

    def samples_of(self, unit: Unit) -> tuple[int, ...]:
        """Return the samples of a unit, by number, in the order in which its microbatch packs them."""
        at = {"step": unit.step, "microbatch": unit.microbatch, "student_rank": unit.student_rank}
        return samples_of_unit(self.order, **at, batch=self.batch)

    def _has_samples(self, unit: Unit) -> bool:
        """Tell whether a unit is not empty: in the last step of a pass over each sample once some may be."""
        return unit.step < self.last_step - 1 or bool(self.samples_of(unit))


def check_inputs(config: RunConfig, layout: Layout) -> None:
    """Raise `ValueError` for checkpoints that are damaged or that the mesh cannot hold."""
    check_student_folder(config.student.checkpoint)
    check_checkpointed_layers(config)
    check_teacher(config, layout)
    check_caches(config)
    if config.init_from is not None and latest_checkpoint(config.init_from) is None:
        raise ValueError(
            f"init_from: {config.init_from} holds no checkpoint; train that run first or name another"
        )
    if config.compares_heads:
        check_pair(config)


def check_pair(config: RunConfig) -> None:
    """Raise `ValueError` for models whose distributions cannot be compared: other tokens, or other ids.

    All samples are compared when the data is checked; the first few show a wrong pair before a job.
    """
    processors = load_processors(config)
    check_vocabularies(config.method, processors)
    check_shared_tokens(
        config, processors, first_samples(config.data, processors, num_records=NUM_TRIAL_RECORDS)
    )


def check_teacher(config: RunConfig, layout: Layout) -> None:
    """Raise `ValueError` for a teacher whose files are not all there, or that its mesh cannot hold."""
    mesh = layout.teacher
    if config.teacher is not None and mesh is not None:
        spec = validate_teacher_folder(config.teacher.checkpoint).language
        spec.check_divisible(tp=mesh.tp, pp=mesh.pp, layers_per_stage=mesh.layers_per_stage)


def check_checkpointed_layers(config: RunConfig) -> None:
    """Raise `ValueError` when more layers are to be computed again than the student has."""
    checkpointed = config.train.checkpointed_layers
    if checkpointed is None:
        return
    student = open_checkpoint(config.student.checkpoint)
    num_layers = model_config(student.config, student.family).get_text_config().num_hidden_layers
    if checkpointed > num_layers:
        raise ValueError(
            f"train.checkpointed_layers is {checkpointed}, but the student in {config.student.checkpoint} "
            f"has {num_layers} decoder layers; lower it, or leave it out to compute all of them again"
        )


def check_run_dir(config: RunConfig, *, resume: bool) -> None:
    """Raise `ValueError` when the run folder holds a run and this is no resume, or the other way round.

    A run that ended before its first step left nothing to lose, and may be started again.
    """
    folder = config.run.dir
    metrics = folder / "metrics.jsonl"
    has_steps = latest_checkpoint(folder) is not None or metrics.exists() and metrics.stat().st_size > 0
    if has_steps and not resume:
        raise ValueError(f"run.dir: {folder} holds a run already; pass --resume or choose another run.dir")
    if resume and not (folder / "config.yaml").exists():
        raise ValueError(f"run.dir: {folder} holds no run to resume; leave out --resume or name another")


def checking_line(total: int, *, is_shown: bool) -> CountLine:
    """Return the line that counts the samples that this rank checks."""
    return CountLine(title="this rank checks samples", total=total, is_shown=is_shown)


def set_up_job(config: RunConfig, layout: Layout, setup: RankSetup, *, resume: bool) -> Job:
    """Check the data, make the groups, find the checkpoint to go on from (collective over the world)."""
    processors, index = checked_data(config, layout, setup, is_fresh=not resume)
    cache = set_up_cache(config, index, setup, world_size=layout.world_size)
    checkpoint = _checkpoint_to_go_on_from(config.run.dir, rank=setup.rank) if resume else None
    first_step = read_run_state(checkpoint).step if checkpoint else 0
    order, batch = sample_order(config, index), batch_shape(config)
    if first_step < config.train.steps:
        check_same_plan(plan_digests(config, order, batch, step=first_step), layout)
    topology = made_topology(layout, setup)
    begin_trace(config, setup.status, first_step=first_step)
    return Job(
        config=config,
        stage=stage_of(config),
        topology=topology,
        index=index,
        order=order,
        batch=batch,
        processors=processors,
        checkpoint=checkpoint,
        first_step=first_step,
        last_step=config.train.steps,
        cache=cache,
        status=setup.status,
        stop=setup.stop,
    )


def checked_data(
    config: RunConfig, layout: Layout, setup: RankSetup, *, is_fresh: bool
) -> tuple[dict[str, ModelProcessor | None], SampleIndex]:
    """Return both models' processors and the samples that pass their checks (collective over the world).

    Only a fresh run may replace an index of other data, and only its own.
    """
    setup.status.at("checks the data, with all ranks")
    processors = load_processors(config)
    ranks = Ranks(rank=setup.rank, world_size=layout.world_size, group=dist.group.WORLD)
    is_shown = setup.rank == layout.student.rank_offset
    builders = Builders(ranks=ranks, progress=partial(checking_line, is_shown=is_shown))
    index = index_of_run(config, processors, is_fresh=is_fresh, builders=builders)
    check_positions(config, index)
    if config.compares_heads:
        check_index_shares_tokens(config, processors, index)
    if setup.rank == 0:
        index.copy_skipped(config.run.dir / "skipped.jsonl")
    return processors, index


def made_topology(layout: Layout, setup: RankSetup) -> Topology:
    """Make the job's process groups (collective over the world)."""
    setup.status.at("makes process groups, with all ranks")
    served = edges(layout.student.dp, layout.teacher.dp) if layout.teacher else ()
    return build_topology(layout, rank=setup.rank, device=setup.device, served_pairs=served)


def _checkpoint_to_go_on_from(run_dir: Path, *, rank: int) -> Path | None:
    """Return the newest whole checkpoint, chosen by rank 0 for all (collective over the world)."""
    return decided_by_first_rank(lambda: newest_whole(checkpoints_of(run_dir)), rank=rank)


def check_positions(config: RunConfig, index: SampleIndex) -> None:
    """Raise `ValueError` when a sample is longer than the positions that the teacher's RoPE was made for."""
    if config.teacher is None:
        return
    limit = load_teacher_manifest(config.teacher.checkpoint).language.max_position_embeddings
    longest = int(index.teacher_tokens.max())
    if longest > limit:
        raise ValueError(
            f"data.max_tokens: a sample has {longest} tokens, but the teacher has {limit} positions; "
            f"set data.max_tokens to {limit} to skip such samples"
        )
