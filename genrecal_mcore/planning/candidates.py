"""The layouts that a number of GPUs allows: for every tp and pp, the replicas that keep both sides busy.

An estimate of their speed, without waiting, sorts them; `proposals` asks which fit, and simulates the first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd
from statistics import fmean

from genrecal_mcore.config import MeshConfig, RunConfig, StudentMesh, TeacherMesh, TrainConfig
from genrecal_mcore.data import BatchShape
from genrecal_mcore.parallel import Layout, MeshSpec
from genrecal_mcore.planning.costs import Cost
from genrecal_mcore.planning.counted import CountedModels, CountedTeacher
from genrecal_mcore.planning.hardware import Hardware
from genrecal_mcore.planning.rates import Rates
from genrecal_mcore.planning.split import balanced_split
from genrecal_mcore.planning.student_costs import student_side, unit_cost
from genrecal_mcore.planning.teacher_costs import images_cost, layers_cost
from genrecal_mcore.planning.workload import UnitSize, Workload, units_of
from genrecal_mcore.training.stages import stage_of

MICRO_BATCH_SIZES = (1, 2, 4, 8)
MOST_STAGES = 16
CHECKPOINTED_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ESTIMATED_UNITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What layouts are looked for."""

    config: RunConfig
    """All but meshes and microbatches."""
    models: CountedModels
    hardware: Hardware
    num_gpus: int
    workload: Workload
    samples_per_step: int
    """About as many: a multiple of the student ranks is taken."""
    rates_of: Callable[[Layout], Rates]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A layout before anybody asked whether it fits."""

    mesh: MeshConfig
    train: TrainConfig
    units_per_s: float
    """An estimate: what the slower side does when it never waits."""

    @property
    def samples_per_s(self) -> float:
        """The same in samples."""
        return self.units_per_s * self.train.micro_batch_size


def candidates(search: Search) -> list[Candidate]:
    """Return all layouts worth looking at, the fastest by estimate first."""
    found = [candidate for size in MICRO_BATCH_SIZES for candidate in _of_size(search, size)]
    return sorted(found, key=lambda candidate: -candidate.samples_per_s)


def _of_size(search: Search, micro_batch_size: int) -> Iterator[Candidate]:
    units = _mean_units(search, micro_batch_size)
    teachers = list(_teachers(search, units))
    for train in _trainings(search, micro_batch_size):
        config = search.config.model_copy(update={"train": train})
        side = student_side(config, search.models)
        student = _seconds(search, units, partial(unit_cost, side))
        if not teachers:
            mesh = MeshConfig(student=StudentMesh(dp=search.num_gpus))
            yield Candidate(mesh=mesh, train=train, units_per_s=search.num_gpus / student)
        for teacher, slowest in teachers:
            ranks = teacher.tp * teacher.pp
            for dp in replicas(search, ranks=ranks, slowest=slowest, student=student):
                student_dp = search.num_gpus - ranks * dp
                whole = teacher.model_copy(update={"dp": dp})
                mesh = MeshConfig(teacher=whole, student=StudentMesh(dp=student_dp))
                rate = min(student_dp / student, dp / slowest)
                yield Candidate(mesh=mesh, train=train, units_per_s=rate)


def _trainings(search: Search, micro_batch_size: int) -> Iterator[TrainConfig]:
    """Yield the ways to train, by how many of the student's layers are computed again."""
    num_layers = search.models.student.shapes.body.num_layers
    learns = stage_of(search.config).student_learns != "nothing"
    counts = {round(share * num_layers) for share in CHECKPOINTED_SHARES} if learns else {num_layers}
    for count in sorted(counts):
        yield search.config.train.model_copy(
            update={
                "micro_batch_size": micro_batch_size,
                "gradient_checkpointing": count > 0,
                "checkpointed_layers": count if 0 < count < num_layers else None,
            }
        )


def _teachers(search: Search, units: Sequence[UnitSize]) -> Iterator[tuple[TeacherMesh, float]]:
    """Yield every mesh of one replica, and the seconds of its slowest stage."""
    teacher = search.models.teacher
    if teacher is None:
        return
    for tp in tensor_parallel_sizes(teacher, search.hardware):
        for pp in range(1, min(MOST_STAGES, teacher.language.num_layers) + 1):
            slowest, split = _slowest_stage(search, teacher, units, tp=tp, pp=pp)
            yield TeacherMesh(tp=tp, pp=pp, sequence_parallel=tp > 1, layers_per_stage=split), slowest


def tensor_parallel_sizes(teacher: CountedTeacher, hardware: Hardware) -> list[int]:
    """Return the powers of two that fit into a node and divide the teacher's heads, groups and channels."""
    spec = teacher.language
    common = gcd(spec.num_attention_heads, spec.num_query_groups, spec.ffn_hidden_size)
    powers = (1 << n for n in range(hardware.devices_per_node.bit_length()))
    return [tp for tp in powers if common % tp == 0 and hardware.devices_per_node % tp == 0]


def replicas(search: Search, *, ranks: int, slowest: float, student: float) -> list[int]:
    """Return the numbers of teacher replicas of so many ranks, on nodes of their own, next to balance.

    Both sides are as fast when dp / slowest is student_dp / student.
    """
    per_node = search.hardware.devices_per_node
    grain = per_node // gcd(per_node, ranks) if search.num_gpus > per_node else 1
    most = (search.num_gpus - 1) // ranks // grain
    balanced = search.num_gpus * slowest / (student + ranks * slowest) / grain
    return [grain * n for n in sorted({int(balanced), int(balanced) + 1}) if 1 <= n <= most]


def _slowest_stage(
    search: Search, teacher: CountedTeacher, units: Sequence[UnitSize], *, tp: int, pp: int
) -> tuple[float, tuple[int, ...] | None]:
    """Return the seconds of the slowest stage and the split of the layers, None for an even one."""
    mesh = MeshSpec(name="teacher", tp=tp, sequence_parallel=tp > 1)
    layer = _seconds(search, units, lambda u: layers_cost(teacher.shapes, mesh, u.teacher, num_layers=1))
    images = _seconds(search, units, lambda u: images_cost(teacher.shapes, mesh, u.teacher))
    split = balanced_split(num_layers=teacher.language.num_layers, pp=pp, images=images / layer)
    slowest = max(images + split[0] * layer, split[-1] * layer)
    return slowest, None if len(set(split)) == 1 else split


def _seconds(search: Search, units: Sequence[UnitSize], cost_of: Callable[[UnitSize], Cost]) -> float:
    """Return the mean seconds of something in each unit; links as between two nodes."""
    rates = search.rates_of(Layout(teacher=None, student=MeshSpec(name="student", dp=search.num_gpus)))
    return fmean(rates.seconds(cost_of(unit)) for unit in units)


def _mean_units(search: Search, micro_batch_size: int) -> list[UnitSize]:
    batch = BatchShape(micro_batch_size=micro_batch_size, accumulation_steps=1, student_dp=ESTIMATED_UNITS)
    return units_of(search.workload.draw(batch.samples_per_step, step=0), batch)
