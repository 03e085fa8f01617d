"""Says which rank is who: two meshes that tile the world, as plain arithmetic.

Nothing here talks to another rank; process groups are made from these records in `topology`.
"""

from dataclasses import dataclass

from genrecal_mcore.config import MeshConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshCoordinate:
    """Position of a rank inside its mesh."""

    tp: int
    dp: int
    pp: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshSpec:
    """Consecutive ranks: `tp` fastest, then `dp`, then `pp` (the order of mcore's `tp-cp-dp-pp`)."""

    name: str
    tp: int = 1
    pp: int = 1
    dp: int = 1
    rank_offset: int = 0
    sequence_parallel: bool = False
    layers_per_stage: tuple[int, ...] | None = None
    """Decoder layers of each pipeline stage, `pp` numbers; None for as many on each."""

    def __post_init__(self) -> None:
        assert self.layers_per_stage is None or len(self.layers_per_stage) == self.pp
        for axis in ("tp", "pp", "dp"):
            if getattr(self, axis) < 1:
                raise ValueError(f"mesh.{self.name}.{axis} must be at least 1, found {getattr(self, axis)}")

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.tp * self.pp * self.dp

    @property
    def pad_to_multiple_of(self) -> int:
        """Return what the length of a sequence must be a multiple of: sequence parallelism cuts it evenly."""
        return self.tp if self.sequence_parallel else 1

    @property
    def ranks(self) -> range:
        """Global ranks of the mesh."""
        return range(self.rank_offset, self.rank_offset + self.size)

    def rank_at(self, *, tp: int = 0, dp: int = 0, pp: int = 0) -> int:
        """Return the global rank at a coordinate."""
        return self.rank_offset + (pp * self.dp + dp) * self.tp + tp

    def coordinate_of(self, rank: int) -> MeshCoordinate:
        """Return where a global rank stands; raises `ValueError` for a rank of another mesh."""
        if rank not in self.ranks:
            raise ValueError(f"rank {rank} is not in the {self.name} mesh, which holds ranks {self.ranks}")
        local = rank - self.rank_offset
        return MeshCoordinate(
            tp=local % self.tp, dp=local // self.tp % self.dp, pp=local // (self.tp * self.dp)
        )

    def layers_of_stage(self, stage: int, *, num_layers: int) -> range:
        """Return which of `num_layers` decoder layers a pipeline stage holds, counted from 0."""
        counts = self.layers_per_stage or (num_layers // self.pp,) * self.pp
        first = sum(counts[:stage])
        return range(first, first + counts[stage])

    @property
    def stage_pairs(self) -> tuple[tuple[int, int], ...]:
        """Return the global ranks of each pair of neighbours in a pipeline, the earlier stage's first."""
        return tuple(
            (self.rank_at(tp=tp, dp=dp, pp=pp), self.rank_at(tp=tp, dp=dp, pp=pp + 1))
            for pp in range(self.pp - 1)
            for dp in range(self.dp)
            for tp in range(self.tp)
        )

    def last_stage_ranks(self, replica: int) -> tuple[int, ...]:
        """Return the tp ranks of the last pipeline stage of one data-parallel replica."""
        return tuple(self.rank_at(tp=tp, dp=replica, pp=self.pp - 1) for tp in range(self.tp))


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The meshes of a job: the teacher's first, if there is one, then the student's."""

    teacher: MeshSpec | None
    student: MeshSpec

    @property
    def world_size(self) -> int:
        """Number of ranks that the meshes hold together."""
        return self.student.size + (self.teacher.size if self.teacher else 0)

    def mesh_of(self, rank: int) -> MeshSpec:
        """Return the mesh that a global rank belongs to."""
        return self.teacher if self.teacher is not None and rank in self.teacher.ranks else self.student

    def who(self, rank: int) -> str:
        """Name a rank for people, e.g. `rank 3 (teacher tp 1 pp 1 dp 0)`."""
        mesh = self.mesh_of(rank)
        at = mesh.coordinate_of(rank)
        place = f"tp {at.tp} pp {at.pp} dp {at.dp}" if mesh is self.teacher else f"dp {at.dp}"
        return f"rank {rank} ({mesh.name} {place})"

    def describe(self) -> str:
        """Return one line a rank: the table that the README shows."""
        return "\n".join(self.who(rank) for rank in range(self.world_size))


def layout_of(mesh: MeshConfig, *, world_size: int) -> Layout:
    """Lay the configured meshes over the ranks of a job.

    Raises `ValueError` when the meshes do not tile `[0, world_size)`.
    """
    teacher = None
    if mesh.teacher is not None:
        teacher = MeshSpec(
            name="teacher",
            tp=mesh.teacher.tp,
            pp=mesh.teacher.pp,
            dp=mesh.teacher.dp,
            sequence_parallel=mesh.teacher.sequence_parallel,
            layers_per_stage=mesh.teacher.layers_per_stage,
        )
    student = MeshSpec(name="student", dp=mesh.student.dp, rank_offset=teacher.size if teacher else 0)
    layout = Layout(teacher=teacher, student=student)
    if layout.world_size != world_size:
        parts = f"student dp {student.dp}"
        if teacher:
            parts = f"teacher tp {teacher.tp} x pp {teacher.pp} x dp {teacher.dp} = {teacher.size}, " + parts
        raise ValueError(
            f"the meshes need {layout.world_size} ranks ({parts}), but the job has {world_size}; "
            f"start {layout.world_size} processes or change mesh.teacher or mesh.student.dp"
        )
    return layout
