"""Runs jobs as their needs allow, some at once; a failure stops what needs it and nothing else."""

import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from genrecal_mcore.study.jobs import Job
from genrecal_mcore.study.locks import locked
from genrecal_mcore.study.processes import Commands

logger = logging.getLogger(__name__)

TAIL_LINES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a job is not done."""

    job: str
    reason: str
    log_tail: Sequence[str] = ()
    """The last lines that it said."""


class Runner:
    """Runs one job after another of those that are asked for, from any thread."""

    def __init__(self, out: Path, commands: Commands) -> None:
        """Logs go to `out/logs`, failures to `out/failed`."""
        self.logs, self.failed = out / "logs", out / "failed"
        for folder in (self.logs, self.failed):
            folder.mkdir(parents=True, exist_ok=True)
        self.commands = commands

    def run(self, job: Job) -> Failure | None:
        """Run one job unless it is done; return why it failed, if it did, after writing that down."""
        if job.is_common:
            with locked(self.logs / f"{job.name}.lock"):
                return self._run_and_record(job)
        return self._run_and_record(job)

    def _run_and_record(self, job: Job) -> Failure | None:
        record = self.failed / f"{job.name}.json"
        record.unlink(missing_ok=True)
        failure = None if job.is_done() else self._run(job)
        if failure is not None:
            record.write_text(json.dumps(asdict(failure), indent=2) + "\n", encoding="utf-8")
        return failure

    def _run(self, job: Job) -> Failure | None:
        try:
            job.prepare()
        except ValueError as error:
            return Failure(job=job.name, reason=f"refused before it started: {error}")
        path = self.logs / f"{job.name}.log"
        code = self.commands.run(job.command, path)
        if code == 0 and job.is_done():
            return None
        tail = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return Failure(job=job.name, reason=_reason(code, tail), log_tail=tail)


def read_failures(out: Path) -> dict[str, Failure]:
    """Return the failures that are written down in a study's folder, by job."""
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "failed").glob("*.json"))
    ]
    return {record["job"]: Failure(**record) for record in records}


def run_jobs(jobs: Sequence[Job], runner: Runner, *, num_workers: int) -> dict[str, Failure]:
    """Run all jobs, `num_workers` at once, and return the failures by name.

    A job whose needs failed is not run and counts as failed. When this is interrupted, what runs is ended.
    """
    waiting = {job.name: job for job in jobs}
    failures: dict[str, Failure] = {}
    with ThreadPoolExecutor(num_workers) as pool:
        running: dict[Future[Failure | None], Job] = {}
        try:
            while waiting or running:
                for job in _take_ready(waiting, running.values(), failures):
                    running[pool.submit(runner.run, job)] = job
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    job, failure = running.pop(future), future.result()
                    if failure is not None:
                        failures[job.name] = failure
                    _log(job, failure, num_left=len(waiting) + len(running))
        except BaseException:
            runner.commands.end_all()
            pool.shutdown(cancel_futures=True)
            raise
    return failures


def _take_ready(waiting: dict[str, Job], running: Iterable[Job], failures: dict[str, Failure]) -> list[Job]:
    """Take from `waiting`, in its order, the jobs whose needs are done; those whose needs failed fail."""
    busy = {job.name for job in running}
    ready = []
    for job in list(waiting.values()):
        failed = [name for name in job.needs if name in failures]
        if failed:
            failures[job.name] = Failure(job=job.name, reason=f"needs {failed[0]}, which failed")
        elif any(name in waiting or name in busy for name in job.needs):
            continue
        else:
            ready.append(job)
            busy.add(job.name)
        del waiting[job.name]
    return ready


def _log(job: Job, failure: Failure | None, *, num_left: int) -> None:
    if failure is None:
        logger.info("%s is done, %d jobs left", job.name, num_left)
    else:
        logger.warning("%s failed, %d jobs left: %s", job.name, num_left, failure.reason)


def _reason(code: int, tail: Sequence[str]) -> str:
    """Return what a command said of its failure, or else how it ended."""
    if code < 0:
        return f"ended by signal {-code}"
    said = [line for line in tail if line.startswith("error: ")]
    if said:
        return said[-1].removeprefix("error: ")
    if code == 0:
        return "ended well without leaving its result"
    return f"exit code {code}: {tail[-1] if tail else 'no output'}"
