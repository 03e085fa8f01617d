"""Runs a study from its grid: prepares, trains, asks, summarises; goes on with whatever is there."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from genrecal_mcore.study.grid import Grid, Preparation
from genrecal_mcore.study.jobs import deal, jobs_of
from genrecal_mcore.study.locks import locked
from genrecal_mcore.study.processes import Commands
from genrecal_mcore.study.report import study_report
from genrecal_mcore.study.results import write_results
from genrecal_mcore.study.running import Failure, Runner, run_jobs
from genrecal_mcore.study.trials import trials_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which part of a study this process does: task 1..`num_tasks`."""

    task: int = 1
    num_tasks: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Parse `I/N`; raises `ValueError` unless 1 <= I <= N."""
        task, _, num_tasks = text.partition("/")
        if task.isdecimal() and num_tasks.isdecimal() and 1 <= int(task) <= int(num_tasks):
            return cls(task=int(task), num_tasks=int(num_tasks))
        raise ValueError(f"--task must be I/N with 1 <= I <= N, e.g. 1/4, found {text!r}")


def run_study(grid: Grid, *, num_workers: int, share: Share = Share()) -> dict[str, Failure]:
    """Do this share of the study, write results, summary and report, and return what failed, by job.

    Finished runs are kept, those that were interrupted go on, those that failed are tried again. Raises
    `ConfigError` for arms that cannot be configured and `RuntimeError` when a preparation fails.
    """
    trials = trials_of(grid)
    jobs = deal(jobs_of(grid, trials), task=share.task, num_tasks=share.num_tasks)
    grid.out.mkdir(parents=True, exist_ok=True)
    with locked(grid.out / ".prepare.lock"):
        prepare(grid.prepare)
    logger.info("%d jobs of %d trials, %d at once", len(jobs), len(trials), num_workers)
    failures = run_jobs(jobs, Runner(grid.out, Commands()), num_workers=num_workers)
    write_results(grid, trials)
    study_report(grid.out)
    return failures


def prepare(preparations: Sequence[Preparation]) -> None:
    """Run the commands whose result is missing, in order; raises `RuntimeError` naming one that fails."""
    for preparation in preparations:
        if preparation.creates.exists():
            continue
        words = [sys.executable if word == "python" else word for word in preparation.command]
        logger.info("prepares %s", preparation.creates)
        code = subprocess.run(words, check=False).returncode
        if code or not preparation.creates.exists():
            raise RuntimeError(
                f"prepare: {' '.join(preparation.command)} ended with exit code {code} and "
                f"{'with' if preparation.creates.exists() else 'without'} {preparation.creates}"
            )
