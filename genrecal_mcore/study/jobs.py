"""The commands of a study: train a run, ask its student, diagnose it; what each needs, and when it is done.

Every job is a command that a user could type. What is done is read off the files that it leaves.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from genrecal_mcore.config import RunConfig, write_run_config
from genrecal_mcore.data.index.layout import MANIFEST_NAME
from genrecal_mcore.evaluation.results import SCORES_NAME
from genrecal_mcore.observability import DIAGNOSTICS_NAME, diagnosis_folder
from genrecal_mcore.planning import check_run, ranks_needed
from genrecal_mcore.study.course import COURSE_NAME, course_folder
from genrecal_mcore.study.grid import DiagnoseConfig, Grid, Task
from genrecal_mcore.study.trials import StageRun, Trial, runs_of
from genrecal_mcore.training import is_finished

GENRECAL = ("-m", "genrecal_mcore.cli.main")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A command, and how it hangs together with others."""

    name: str
    """Unique; its log and the record of its failure are called so."""
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    """Jobs that must be done before."""
    is_done: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None
    """Called before the command; raises `ValueError` for what cannot work."""
    weight: int = 1
    """Training steps, for dealing jobs out."""
    is_common: bool = False
    """Whether every task that needs the job does it, one at a time: the others find it done."""


def jobs_of(grid: Grid, trials: Sequence[Trial]) -> list[Job]:
    """Return every job of the trials once, each behind those that it needs."""
    runs = runs_of(list(trials))
    jobs = [_index_job(grid, run) for run in runs] + [_train_job(grid, run) for run in runs]
    jobs += [_evaluate_job(grid, trial) for trial in trials]
    for trial in trials:
        if trial.arm in grid.courses:
            jobs += [_course_job(grid, trial, run) for run in trial.runs]
        if grid.diagnose is not None and trial.arm in grid.diagnose.arms:
            jobs += _diagnose_jobs(grid, grid.diagnose, trial)
    return list({job.name: job for job in jobs}.values())


def evaluation_folder(grid: Grid, trial: Trial) -> Path:
    """Return where a trial's answers and scores lie: in the last run's folder, if there is one."""
    if trial.runs:
        return trial.runs[-1].folder / "evaluation" / trial.task
    return grid.out / "untouched" / f"{trial.untouched_name}_{trial.task}"


def jobs_behind(trial: Trial) -> tuple[str, ...]:
    """Return the names of all jobs that a trial's accuracy comes from, in their order."""
    indexes = [_index_name(run) for run in trial.runs]
    return (*indexes, *(run.name for run in trial.runs), evaluation_name(trial))


def evaluation_name(trial: Trial) -> str:
    """Return the name of the job that asks a trial's student."""
    model = trial.runs[-1].name if trial.runs else f"untouched_{trial.untouched_name}"
    return f"evaluate_{model}_{trial.task}"


def train_command(config: RunConfig, path: Path) -> tuple[str, ...]:
    """Return how a user would start a run of this configuration in `path`, under torchrun if it must be."""
    num_ranks = ranks_needed(config)
    launcher: tuple[str, ...] = ()
    if num_ranks > 1:
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}")
    return (sys.executable, *launcher, *GENRECAL, "train", str(path), "--resume-or-begin")


def _index_name(run: StageRun) -> str:
    assert run.config.data.index is not None
    return f"index_{run.config.data.index.name}"


def _index_job(grid: Grid, run: StageRun) -> Job:
    """Return the job that checks a run's samples once for all runs with the same data and models."""
    folder, name = run.config.data.index, _index_name(run)
    assert folder is not None
    path = grid.out / "configs" / f"{name}.yaml"
    return Job(
        name=name,
        command=(sys.executable, *GENRECAL, "data", "index", str(path)),
        is_done=(folder / MANIFEST_NAME).is_file,
        prepare=lambda: write_run_config(run.config, path),
        weight=0,
        is_common=True,
    )


def _train_job(grid: Grid, run: StageRun) -> Job:
    path = grid.out / "configs" / f"{run.name}.yaml"

    def prepare() -> None:
        check_run(run.config)
        write_run_config(run.config, path)

    return Job(
        name=run.name,
        command=train_command(run.config, path),
        needs=(_index_name(run), *((run.parent.name,) if run.parent else ())),
        is_done=lambda: is_finished(run.config),
        prepare=prepare,
        weight=run.config.train.steps,
    )


def _evaluate_job(grid: Grid, trial: Trial) -> Job:
    model = trial.runs[-1].folder if trial.runs else trial.untouched
    out = evaluation_folder(grid, trial)
    return Job(
        name=evaluation_name(trial),
        command=_evaluate_command(grid, trial.task, model=model, out=out),
        needs=(trial.runs[-1].name,) if trial.runs else (),
        is_done=(out / SCORES_NAME).is_file,
    )


def _course_job(grid: Grid, trial: Trial, run: StageRun) -> Job:
    out = course_folder(run.folder, trial.task)
    return Job(
        name=f"course_{run.name}_{trial.task}",
        command=(*_evaluate_command(grid, trial.task, model=run.folder, out=out), "--every-checkpoint"),
        needs=(run.name,),
        is_done=(out / COURSE_NAME).is_file,
    )


def _evaluate_command(grid: Grid, name: str, *, model: Path, out: Path) -> tuple[str, ...]:
    task = grid.tasks[name]
    command = ["evaluate", str(model), "--benchmark", f"{name}={task.heldout.path}"]
    command += ["--images", str(task.heldout.images), "--out", str(out)]
    if task.max_new_tokens is not None:
        command += ["--max-new-tokens", str(task.max_new_tokens)]
    return (sys.executable, *GENRECAL, *command)


def _diagnose_jobs(grid: Grid, wanted: DiagnoseConfig, trial: Trial) -> Iterator[Job]:
    is_first = trial.seed == (grid.arms[trial.arm].seeds or grid.seeds)[0]
    for run in trial.runs:
        if run.config.has_recalibrator and run.config.stage in wanted.stages:
            for step in (None, 0) if is_first else (None,):
                yield _diagnose_job(run, grid.tasks[trial.task], step=step, num_samples=wanted.num_samples)


def _diagnose_job(run: StageRun, task: Task, *, step: int | None, num_samples: int) -> Job:
    source = task.heldout
    command = ["diagnose", str(run.folder), "--data", str(source.path), "--images", str(source.images)]
    command += ["--num-samples", str(num_samples), "--overwrite"]
    command += [] if step is None else ["--step", str(step)]
    return Job(
        name=f"diagnose_{run.name}" + ("" if step is None else f"_step{step}"),
        command=(sys.executable, *GENRECAL, *command),
        needs=(run.name,),
        is_done=(diagnosis_folder(run.folder, step=step) / DIAGNOSTICS_NAME).is_file,
    )


def deal(jobs: Sequence[Job], *, task: int, num_tasks: int) -> list[Job]:
    """Return the share of task 1..`num_tasks`: whole groups of jobs that need each other, the largest dealt
    out first, each to the task with the fewest training steps so far; before them what all have in common.
    """
    common = {job.name: job for job in jobs if job.is_common}
    shares: list[list[Job]] = [[] for _ in range(num_tasks)]
    groups = sorted(_groups([job for job in jobs if not job.is_common]), key=_weight, reverse=True)
    for group in groups:
        min(shares, key=_weight).extend(group)
    own = shares[task - 1]
    needed = dict.fromkeys(name for job in own for name in job.needs if name in common)
    return [*(common[name] for name in needed), *own]


def _weight(jobs: Iterable[Job]) -> int:
    return sum(job.weight for job in jobs)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs in groups that share nothing, needed ones first as in `jobs`."""
    group_of: dict[str, list[Job]] = {}
    for job in jobs:
        merged = [job]
        needed = [group_of[name] for name in job.needs if name in group_of]
        for group in {id(group): group for group in needed}.values():
            merged = group + merged
        group_of |= {member.name: merged for member in merged}
    return list({id(group): group for group in group_of.values()}.values())
