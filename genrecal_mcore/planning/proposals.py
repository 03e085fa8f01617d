"""Proposes layouts for a number of GPUs: those that fit, simulated, the fastest first."""

from collections.abc import Iterator
from dataclasses import dataclass

from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import Layout, layout_of
from genrecal_mcore.planning.candidates import Candidate, Search, candidates
from genrecal_mcore.planning.fit import check_fits
from genrecal_mcore.planning.hardware import Hardware
from genrecal_mcore.planning.memory import plan_memory
from genrecal_mcore.planning.parts import RankKind
from genrecal_mcore.planning.timing import Prediction, TimedLayout, predict_workload, timed_layout

KEPT_FREE = 0.06
"""Share of a GPU's memory that a proposal leaves to the CUDA context, NCCL and the allocator's fragments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A layout that fits."""

    timed: TimedLayout
    kinds: tuple[RankKind, ...]
    prediction: Prediction

    @property
    def config(self) -> RunConfig:
        """The run in this layout."""
        return self.timed.config


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposals:
    """What a search found."""

    best: tuple[Proposal, ...]
    """The fastest first."""
    num_refused: int
    """Layouts that promised as much and do not fit."""
    least_bad: str | None
    """Why the one that lacks least memory was refused; None where none was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fitted:
    """A candidate's run, and what it needs."""

    config: RunConfig
    layout: Layout
    kinds: tuple[RankKind, ...]

    def lacks(self, available_bytes: int) -> int:
        """Return the bytes that its fullest rank lacks; none or less where it fits."""
        return max(kind.needed_bytes for kind in self.kinds) - available_bytes


def propose(search: Search, *, top: int) -> Proposals:
    """Look at layouts, the fastest by estimate first, until twice `top` fit; simulate those."""
    available_bytes = usable_memory(search.hardware)
    fitting: dict[Layout, _Fitted] = {}
    refused: list[_Fitted] = []
    for candidate in candidates(search):
        fitted = _fitted(search, candidate)
        if fitted.lacks(available_bytes) > 0:
            refused.append(fitted)
        else:  # of those that differ in their microbatches only, the fastest
            fitting.setdefault(fitted.layout, fitted)
        if len(fitting) == 2 * top:
            break
    simulated = [_simulated(search, fitted) for fitted in fitting.values()]
    simulated.sort(key=lambda proposal: -proposal.prediction.samples_per_s)
    least_bad = min(refused, key=lambda fitted: fitted.lacks(available_bytes), default=None)
    return Proposals(
        best=tuple(simulated[:top]),
        num_refused=len(refused),
        least_bad=None if least_bad is None else _why(least_bad, available_bytes),
    )


def usable_memory(hardware: Hardware) -> int:
    """Return the bytes of a GPU that a proposal may fill."""
    return int((1 - KEPT_FREE) * hardware.memory_bytes)


def _fitted(search: Search, candidate: Candidate) -> _Fitted:
    samples = candidate.train.micro_batch_size * candidate.mesh.student.dp
    accumulation_steps = max(1, round(search.samples_per_step / samples))
    steps = -(-search.workload.samples // (samples * accumulation_steps))
    train = candidate.train.model_copy(update={"accumulation_steps": accumulation_steps, "steps": steps})
    config = search.config.model_copy(update={"mesh": candidate.mesh, "train": train})
    layout = layout_of(candidate.mesh, world_size=search.num_gpus)
    return _Fitted(config=config, layout=layout, kinds=plan_memory(config, layout, search.models))


def _simulated(search: Search, fitted: _Fitted) -> Proposal:
    timed = timed_layout(fitted.config, fitted.layout, search.models, search.rates_of(fitted.layout))
    return Proposal(timed=timed, kinds=fitted.kinds, prediction=predict_workload(timed, search.workload))


def _why(fitted: _Fitted, available_bytes: int) -> str:
    """Return why a layout does not fit, in the words of the check before a run."""
    try:
        check_fits(fitted.kinds, fitted.config, available_bytes=available_bytes)
    except ValueError as error:
        return str(error)
    raise AssertionError("a layout that fits was refused")


def overrides(config: RunConfig) -> Iterator[str]:
    """Yield a proposal's keys as they can be put behind `genrecal train CONFIG`."""
    teacher = config.mesh.teacher
    if teacher is not None:
        yield from (f"mesh.teacher.{axis}={getattr(teacher, axis)}" for axis in ("tp", "pp", "dp"))
        yield f"mesh.teacher.sequence_parallel={str(teacher.sequence_parallel).lower()}"
        if teacher.layers_per_stage is not None:
            yield f"mesh.teacher.layers_per_stage=[{','.join(map(str, teacher.layers_per_stage))}]"
    yield f"mesh.student.dp={config.mesh.student.dp}"
    train = config.train
    yield from (
        f"train.{key}={getattr(train, key)}" for key in ("steps", "micro_batch_size", "accumulation_steps")
    )
    yield f"train.gradient_checkpointing={str(train.gradient_checkpointing).lower()}"
    if train.checkpointed_layers is not None:
        yield f"train.checkpointed_layers={train.checkpointed_layers}"
    yield f"transfer.prefetch={config.transfer.prefetch}"
