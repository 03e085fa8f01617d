"""The grid of a study: which arms learn from which teachers, on which tasks, with which seeds.

One YAML file; every problem is reported at once, each with its key. What a run is stays in the configurations
of its stages: a grid names those and changes keys of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrecal_mcore.config import ConfigError, DataSource, Method, problems_of, read_mapping

StageNumber = Literal[1, 2, 3]
Overrides = dict[str, Any]
"""Values by dotted key, as in `train.steps: 20`."""
Seed = Annotated[int, Field(ge=0)]

OWN_KEYS = ("stage", "method", "run", "init_from", "train.seed")
"""What the grid itself says of a run, key or section."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preparation(_Section):
    """A command that makes what the runs need, run once."""

    command: tuple[str, ...] = Field(min_length=1)
    """Program and arguments; `python` is this environment's."""
    creates: Path
    """What is there afterwards; while it is, the command is not run."""


class Pair(_Section):
    """A teacher and a student."""

    student: Path
    """Hugging Face folder."""
    teacher: Path | None = None
    """Folder of a converted teacher; arms without teacher need none."""
    caches: Path | None = None
    """Folder with a feature cache of the teacher for each task, under the task's name; runs then have no
    teacher ranks.
    """


class Task(_Section):
    """What is learnt from, and what the students are asked."""

    sources: tuple[DataSource, ...] = Field(min_length=1)
    """Training data."""
    heldout: DataSource
    """Questions with known answers; accuracy is what `genrecal evaluate` reports of them."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; what suits the benchmark if left out."""


class Arm(_Section):
    """One way to train a student."""

    method: Method = "genrecal"
    stages: tuple[StageNumber, ...] = (1, 2, 3)
    """In order, each from the result of the one before; none for a model that is asked as it is."""
    model: Path | None = None
    """Hugging Face folder to ask instead of the pair's student, where there are no stages: the teacher's."""
    pairs: tuple[str, ...] | None = None
    """All pairs if left out; so for tasks and seeds."""
    tasks: tuple[str, ...] | None = None
    seeds: tuple[Seed, ...] | None = None
    overrides: Overrides = {}
    """Keys of the configuration of every stage."""
    stage_overrides: dict[StageNumber, Overrides] = {}
    """Of one stage: what stands only in stage 2 lets arms share stage 1."""


class DiagnoseConfig(_Section):
    """Runs to look into with `genrecal diagnose`, on held-out data: all at their end, those of an arm's first
    seed also as they began.
    """

    arms: tuple[str, ...] = Field(min_length=1)
    """Arms with a Recalibrator."""
    stages: tuple[Literal[1, 2], ...] = (1, 2)
    """Whose runs."""
    num_samples: int = Field(default=64, ge=1)


class Grid(_Section):
    """A study."""

    out: Path
    """The study's folder; what is finished there is kept."""
    prepare: tuple[Preparation, ...] = ()
    stages: dict[StageNumber, Path]
    """Configuration that each stage's runs begin with; models, data, seed and folders are filled in."""
    pairs: dict[str, Pair] = Field(min_length=1)
    tasks: dict[str, Task] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    """Of arms that name none."""
    arms: dict[str, Arm] = Field(min_length=1)
    reference: str
    """Arm that the others are compared with, seed by seed."""
    diagnose: DiagnoseConfig | None = None
    courses: tuple[str, ...] = ()
    """Arms whose students are asked at each checkpoint that their runs keep; how many those are is said by
    `train.checkpoint_every_steps` and `train.keep_checkpoints` of the stages.
    """


def load_grid(path: Path) -> Grid:
    """Read a grid; raises `ConfigError` listing all unknown, missing, mistyped and contradictory keys."""
    raw = read_mapping(path)
    try:
        grid = Grid.model_validate(raw)
    except ValidationError as error:
        problems = problems_of(error, Grid)
    else:
        problems = list(_contradictions(grid))
        if not problems:
            return grid
    lines = "\n".join(f"  {number}. {text}" for number, text in enumerate(problems, 1))
    raise ConfigError(f"{path} has {len(problems)} problem(s):\n{lines}")


def _contradictions(grid: Grid) -> Iterator[str]:
    yield from _unknown("reference", (grid.reference,), grid.arms)
    if grid.diagnose is not None:
        able = [
            name for name, arm in grid.arms.items() if arm.method == "genrecal" and {1, 2} & {*arm.stages}
        ]
        yield from _unknown("diagnose.arms", grid.diagnose.arms, able)
    able = [name for name, arm in grid.arms.items() if arm.stages]
    yield from _unknown("courses", grid.courses, able)
    for name, arm in grid.arms.items():
        where = f"arms.{name}"
        yield from _unknown(f"{where}.pairs", arm.pairs or (), grid.pairs)
        yield from _unknown(f"{where}.tasks", arm.tasks or (), grid.tasks)
        yield from _unknown(f"{where}.stages", arm.stages, grid.stages)
        yield from _unknown(f"{where}.stage_overrides", arm.stage_overrides, arm.stages)
        if list(arm.stages) != sorted(set(arm.stages)):
            yield f"{where}.stages is {list(arm.stages)}; name each stage once, in order"
        if arm.model is not None and arm.stages:
            yield f"{where}.model is set, but {name} trains the pair's student; set stages to [] or remove it"
        for key in [key for keys in (arm.overrides, *arm.stage_overrides.values()) for key in keys]:
            if any(key == own or key.startswith(f"{own}.") for own in OWN_KEYS):
                yield f"{where}: {key} is decided by the grid; remove the override"


def _unknown(where: str, names: Any, known: Any) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f"{where} names {name!r}; expected one of {', '.join(map(str, known)) or 'none'}"
