"""From a grid to its runs: each stage's configuration, whole, and which trials share which runs. Pure but for
reading the configurations of the stages.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from genrecal_mcore.config import ConfigError, RunConfig, load_run_config
from genrecal_mcore.data.index.inputs import SETTINGS
from genrecal_mcore.study.grid import Arm, Grid, StageNumber

DIGEST_LENGTH = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRun:
    """One run of one stage; runs with equal digests are the same run."""

    config: RunConfig
    parent: "StageRun | None"
    """The run that it starts from."""
    digest: str
    """Of everything that the result depends on: the configuration without its folder, and the parent's."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run.dir

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.folder.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One seed of one arm on one pair and task: what has one accuracy."""

    arm: str
    pair: str
    task: str
    seed: int
    runs: tuple[StageRun, ...]
    """One a stage, in order."""
    untouched: Path
    """What is asked where there are no runs."""

    @property
    def untouched_name(self) -> str:
        """A name for what is asked where there are no runs, which no other folder of that name has."""
        return f"{self.untouched.name}_{_digest_of(str(self.untouched))}"

    @property
    def names(self) -> dict[str, Any]:
        """What identifies the trial."""
        return {"arm": self.arm, "pair": self.pair, "task": self.task, "seed": self.seed}


def trials_of(grid: Grid) -> list[Trial]:
    """Return every trial, in the grid's order.

    Raises `ConfigError` listing the arms whose configurations cannot be run, with their problems.
    """
    trials, problems = [], []
    for name, arm in grid.arms.items():
        try:
            trials += list(_trials_of_arm(grid, name, arm))
        except ConfigError as error:
            problems.append(f"arm {name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return trials


def runs_of(trials: list[Trial]) -> list[StageRun]:
    """Return each run of the trials once, parents before children."""
    return list({run.digest: run for trial in trials for run in trial.runs}.values())


def _trials_of_arm(grid: Grid, name: str, arm: Arm) -> Iterator[Trial]:
    for pair in arm.pairs or grid.pairs:
        for task in arm.tasks or grid.tasks:
            for seed in arm.seeds or grid.seeds:
                runs: list[StageRun] = []
                for stage in arm.stages:
                    wanted = _overrides(grid, arm, stage, (pair, task, seed))
                    runs.append(_stage_run(grid, stage, wanted, runs[-1] if runs else None))
                untouched = arm.model or grid.pairs[pair].student
                yield Trial(arm=name, pair=pair, task=task, seed=seed, runs=tuple(runs), untouched=untouched)


def _overrides(grid: Grid, arm: Arm, stage: StageNumber, of: tuple[str, str, int]) -> dict[str, Any]:
    pair, task, seed = grid.pairs[of[0]], grid.tasks[of[1]], of[2]
    wanted: dict[str, Any] = {
        "stage": stage,
        "method": arm.method,
        "train.seed": seed,
        "student.checkpoint": str(pair.student),
        "data.sources": [source.model_dump(mode="json") for source in task.sources],
    }
    if stage == 3 or arm.method == "sft":
        wanted |= {"teacher": None, "mesh.teacher": None}
    elif pair.teacher is not None:
        wanted |= {"teacher.checkpoint": str(pair.teacher)}
        if pair.caches is not None:
            wanted |= {"mesh.teacher": None, "teacher.read_cache": str(pair.caches / of[1])}
    return wanted | arm.overrides | arm.stage_overrides.get(stage, {})


def _stage_run(grid: Grid, stage: StageNumber, wanted: dict[str, Any], parent: StageRun | None) -> StageRun:
    runs = grid.out / "runs"
    wanted = wanted | {"run.dir": str(runs), "init_from": str(parent.folder) if parent else None}
    overrides = [f"{key}={json.dumps(value)}" for key, value in wanted.items()]
    config = load_run_config(grid.stages[stage], overrides)
    digest = _digest(config, parent)
    run = config.run.model_copy(update={"dir": runs / f"{config.method}_stage{stage}_{digest}"})
    index = config.data.index or grid.out / "indexes" / _index_digest(config)
    data = config.data.model_copy(update={"index": index})
    return StageRun(config=config.model_copy(update={"run": run, "data": data}), parent=parent, digest=digest)


def _digest(config: RunConfig, parent: StageRun | None) -> str:
    content = config.model_dump(mode="json", exclude={"run": True, "init_from": True, "data": {"index"}})
    content["parent"] = parent.digest if parent else None
    return _digest_of(content)


def _index_digest(config: RunConfig) -> str:
    """Return the digest of what decides which samples an index holds, and how long they are."""
    content: dict[str, Any] = config.data.model_dump(mode="json", include={"sources", *SETTINGS})
    content["student"] = str(config.student.checkpoint)
    content["teacher"] = str(config.teacher.checkpoint) if config.teacher else None
    content["student_answers"] = config.recalibrator.student_answers
    return _digest_of(content)


def _digest_of(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]
