"""Submits the scripts of `examples/` as a user does, and reads what their runs left behind."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from genrecal_mcore.status import StatusRecord, read_statuses
from tests.slurm.cluster import JobFacts, LocalSlurm

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TEACHER_RANKS, STUDENT_RANKS = 4, 2
STEPS, CHECKPOINT_EVERY = 24, 4
TIMEOUT_S = 12.0
"""Of transfers: how long a rank waits for one that fell silent."""
START_TIMEOUT_S = 240.0
END_TIMEOUT_S = 240.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """Where the demo's models meet a cluster."""

    cluster: LocalSlurm
    folder: Path
    """Holds the converted teacher and the data."""

    @property
    def short(self) -> list[str]:
        """What turns a configuration of the demo into that of a short run on this workplace's data."""
        data = self.folder / "data"
        return [
            f"train.steps={STEPS}",
            f"train.checkpoint_every_steps={CHECKPOINT_EVERY}",
            "train.micro_batch_size=4",
            f"transfer.timeout_s={TIMEOUT_S}",
            f"data.sources=[{{path: {data}/train.jsonl, images: {data}/images}}]",
        ]

    def overrides(self, run_dir: Path, *, stage: int, init_from: Path | None) -> list[str]:
        """Return what turns the demo's configuration of a stage into a short run in `run_dir`."""
        values = [f"run.dir={run_dir}", *self.short]
        if stage < 3:
            values.append(f"teacher.checkpoint={self.folder / 'teacher'}")
        if init_from is not None:
            values.append(f"init_from={init_from}")
        return values

    def submit(self, script: str, *args: str, options: Sequence[str] = (), **environment: str) -> int:
        """Submit a script of `examples/` from the repository's root, in this Python's environment."""
        return self.cluster.submit(
            Path("examples") / script,
            *args,
            cwd=ROOT,
            options=[*self.options, *options],
            environment={**self.knobs, **environment},
        )

    @property
    def options(self) -> list[str]:
        """Options of sbatch that every job gets."""
        return ["--time=15", f"--output={self.folder}/%x_%j.out"]

    @property
    def knobs(self) -> dict[str, str]:
        """What a user of this workplace exports."""
        return {
            "VENV": os.path.relpath(sys.prefix, ROOT),
            "OMP_NUM_THREADS": "1",
            "RANKS_PER_TEACHER_NODE": str(TEACHER_RANKS),
            "RANKS_PER_STUDENT_NODE": str(STUDENT_RANKS),
        }

    def submit_all_stages(self, runs: Path) -> list[int]:
        """Submit the three stages in a chain; return the jobs' numbers."""
        for stage in (1, 2, 3):
            config = yaml.safe_load((EXAMPLES / "configs" / f"demo_stage{stage}.yaml").read_text())
            if stage < 3:
                config["teacher"]["checkpoint"] = str(self.folder / "teacher")
            (self.folder / f"chain_stage{stage}.yaml").write_text(yaml.safe_dump(config))
        knobs = {**self.knobs, "RUNS": str(runs), "CONFIGS": str(self.folder / "chain")}
        done = subprocess.run(
            ["examples/slurm_all_stages.sh", *self.options, *self.short],
            cwd=ROOT,
            env=os.environ | self.cluster.environment | knobs,
            check=True,
            capture_output=True,
            text=True,
        )
        return [int(number) for number in re.findall(r"job (\d+)", done.stdout)]

    def submit_stage(self, stage: int, run_dir: Path, *, init_from: Path | None = None) -> int:
        """Submit a stage's script: the teacher on one node, the student on another."""
        overrides = self.overrides(run_dir, stage=stage, init_from=init_from)
        return self.submit(f"slurm_stage{stage}.sh", *overrides)

    def output_of(self, job_id: int) -> str:
        """Return what a job printed so far."""
        return "\n".join(path.read_text() for path in self.folder.glob(f"*_{job_id}.out"))

    def wait_for_success(self, job_id: int) -> JobFacts:
        """Wait until a job has ended well."""
        facts = self.cluster.wait(job_id, has_ended, timeout_s=END_TIMEOUT_S)
        assert facts.state == "COMPLETED", f"{facts}\n{self.output_of(job_id)[-6000:]}"
        return facts


def train_with_torchrun(overrides: Sequence[str], *, stage: int) -> None:
    """Train a stage of the demo on one host, without Slurm."""
    num_ranks = STUDENT_RANKS + (TEACHER_RANKS if stage < 3 else 0)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_ranks}", "-m", "genrecal_mcore.cli.main", "train"]
    done = subprocess.run(
        [*command, f"examples/configs/demo_stage{stage}.yaml", *overrides],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-6000:]


def has_ended(facts: JobFacts) -> bool:
    """Tell whether a job will do nothing more."""
    return facts.state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")


def is_not_running(facts: JobFacts) -> bool:
    """Tell whether a job's processes are gone: it has ended, or is in the queue again."""
    return facts.state not in ("RUNNING", "COMPLETING")


def wait_until(condition: Callable[[], bool], workplace: Workplace, job_id: int, *, what: str) -> None:
    """Look every few milliseconds; fail with the job's output when it ends before."""
    deadline = time.monotonic() + START_TIMEOUT_S
    next_look = 0.0
    while not condition():
        if time.monotonic() > next_look:
            facts = workplace.cluster.job(job_id)
            assert not has_ended(facts), f"no {what}: {facts}\n{workplace.output_of(job_id)[-6000:]}"
            next_look = time.monotonic() + 1.0
        assert time.monotonic() < deadline, f"no {what} within {START_TIMEOUT_S:g} s"
        time.sleep(0.005)


def rank_at_step(workplace: Workplace, job_id: int, run_dir: Path, rank: int, *, step: int) -> StatusRecord:
    """Wait until a rank works on `step` or a later one, and return its record."""
    wait_until(
        lambda: any(r.rank == rank and (r.step or 0) >= step for r in statuses(run_dir)),
        workplace,
        job_id,
        what=f"step {step} on rank {rank}",
    )
    return next(record for record in statuses(run_dir) if record.rank == rank)


def statuses(run_dir: Path) -> list[StatusRecord]:
    """Return the records of a run's ranks; none before the first has spoken."""
    try:
        return read_statuses(run_dir)
    except ValueError:
        return []
