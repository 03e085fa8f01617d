"""Breaks jobs in every way that a cluster knows, and compares what they end with to an undisturbed run.

The summary shows the time from each fault to the end of the job.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from genrecal_mcore.status import explain_run
from tests.helpers.measured import MEASURED
from tests.helpers.training_run import numbers_of
from tests.slurm.cluster import LocalSlurm
from tests.slurm.jobs import (
    CHECKPOINT_EVERY,
    END_TIMEOUT_S,
    STEPS,
    Workplace,
    has_ended,
    is_not_running,
    rank_at_step,
    statuses,
    wait_until,
)

pytestmark = pytest.mark.slurm

FAULT_STEP = CHECKPOINT_EVERY + 2
STUDENT_0 = 4
RANKS = {
    "teacher, first stage": 0,
    "teacher, tp peer": 1,
    "teacher, last stage": 2,
    "student 0": STUDENT_0,
    "student 1": 5,
}
VICTIMS = {1: RANKS, 2: RANKS, 3: {"student 1": 1}}


def measure_the_end(name: str, workplace: Workplace, job_id: int, *, since: float | None = None) -> None:
    """Wait until Slurm says that the job is over; note how long that took, from a moment or from now on."""
    started = time.monotonic() if since is None else since
    workplace.cluster.wait(job_id, is_not_running, timeout_s=END_TIMEOUT_S)
    MEASURED.append(f"{name}: {time.monotonic() - started:.1f} s from the fault to the end of the job")


def measure_the_end_of_the_ranks(name: str, run_dir: Path, *, since: float) -> None:
    """Wait until the teacher's ranks, on the node that stays, are gone; Slurm may learn of it later."""
    pids = [record.pid for record in statuses(run_dir) if record.rank < STUDENT_0]
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() - since < END_TIMEOUT_S
        time.sleep(0.01)
    MEASURED.append(f"{name}: {time.monotonic() - since:.1f} s from the fault to the end of all ranks")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_killed_rank_ends_the_job_and_the_next_one_goes_on(
    stage: int, workplace: Workplace, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    """Kill a rank of each kind, one in each job; every job goes on with the run that the one before left."""
    expected, run_dir = numbers_of(undisturbed[stage]), tmp_path / "run"
    for number, (kind, rank) in enumerate(VICTIMS[stage].items()):
        job_id = workplace.submit_stage(stage, run_dir, init_from=undisturbed.get(stage - 1))
        step = CHECKPOINT_EVERY * (number + 1) + 1
        victim = rank_at_step(workplace, job_id, run_dir, rank, step=step)
        os.kill(victim.pid, signal.SIGKILL)
        measure_the_end(f"stage {stage}, kill -9 {kind}", workplace, job_id)
        assert workplace.cluster.wait(job_id, has_ended, timeout_s=END_TIMEOUT_S).state == "FAILED"
        assert_the_dead_is_named(run_dir, rank)
        done = numbers_of(run_dir)
        assert done == expected[: len(done)] and len(done) < STEPS
    workplace.wait_for_success(workplace.submit_stage(stage, run_dir, init_from=undisturbed.get(stage - 1)))
    assert numbers_of(run_dir) == expected


def assert_the_dead_is_named(run_dir: Path, rank: int) -> None:
    """Every other rank's log says where it was; the explanation points to the one that says nothing."""
    first = explain_run(run_dir, now=time.time()).sentences[0]
    assert first.startswith(f"ended without a last word: rank {rank} ("), first
    logs = sorted((run_dir / "logs").glob("rank_*.log"))
    silent = [path.name for path in logs if "this rank was at step " not in of_the_newest_start(path)]
    assert silent == [f"rank_{rank:03d}.log"]


def of_the_newest_start(log: Path) -> str:
    return log.read_text().rpartition("ranks on node")[2]


@pytest.mark.parametrize(
    ("name", "break_node", "repair"),
    [
        ("crash", LocalSlurm.crash, LocalSlurm.start),
        ("unplug", LocalSlurm.unplug, LocalSlurm.plug),
    ],
    ids=["crash", "unplug"],
)
def test_a_lost_node_requeues_the_job_which_goes_on_when_it_is_back(
    name: str,
    break_node: Callable[[LocalSlurm, str], None],
    repair: Callable[[LocalSlurm, str], None],
    workplace: Workplace,
    undisturbed: dict[int, Path],
    tmp_path: Path,
) -> None:
    job_id = workplace.submit_stage(1, tmp_path / "run")
    rank_at_step(workplace, job_id, tmp_path / "run", STUDENT_0, step=FAULT_STEP)
    broken = time.monotonic()
    break_node(workplace.cluster, "node2")
    measure_the_end_of_the_ranks(f"stage 1, {name} the student's node", tmp_path / "run", since=broken)
    measure_the_end(f"stage 1, {name} the student's node", workplace, job_id, since=broken)
    repair(workplace.cluster, "node2")
    facts = workplace.cluster.wait(job_id, has_ended, timeout_s=END_TIMEOUT_S)
    assert facts.restarts == 1
    if facts.state != "COMPLETED":
        # A minute after the fault slurmctld repeats the order to kill the job that the node did not hear, and
        # a node that is back so soon obeys, although the job is another start of the same.
        workplace.wait_for_success(workplace.submit_stage(1, tmp_path / "run"))
    assert numbers_of(tmp_path / "run") == numbers_of(undisturbed[1])


def test_a_preempted_job_saves_at_once_and_goes_on_by_itself(
    workplace: Workplace, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    job_id = workplace.submit_stage(1, tmp_path / "run")
    rank_at_step(workplace, job_id, tmp_path / "run", STUDENT_0, step=FAULT_STEP)
    workplace.cluster.cancel(job_id, signal="USR1", batch=True)
    measure_the_end("stage 1, preemption signal", workplace, job_id)
    done = len(numbers_of(tmp_path / "run"))
    assert FAULT_STEP <= done < STEPS
    assert (tmp_path / "run" / "checkpoints" / f"step_{done:08d}").is_dir()
    facts = workplace.wait_for_success(job_id)
    assert facts.restarts == 1
    output = workplace.output_of(job_id)
    assert "preempted: job" in output and f"resumed at step {done}" in output
    assert numbers_of(tmp_path / "run") == numbers_of(undisturbed[1])


def test_a_job_that_is_cancelled_while_it_writes_a_checkpoint_loses_nothing(
    workplace: Workplace, undisturbed: dict[int, Path], tmp_path: Path
) -> None:
    job_id = workplace.submit_stage(1, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    partial = f".partial_step_{2 * CHECKPOINT_EVERY:08d}"
    wait_until(lambda: (checkpoints / partial).exists(), workplace, job_id, what=partial)
    workplace.cluster.cancel(job_id)
    measure_the_end("stage 1, cancelled while saving", workplace, job_id)
    assert workplace.cluster.wait(job_id, has_ended, timeout_s=END_TIMEOUT_S).state == "CANCELLED"
    workplace.wait_for_success(workplace.submit_stage(1, tmp_path / "run"))
    assert numbers_of(tmp_path / "run") == numbers_of(undisturbed[1])
    assert not (checkpoints / partial).exists()
