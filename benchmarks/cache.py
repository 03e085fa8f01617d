"""Times steps of stage 2 whose teacher features come from files against the same with a teacher rank.

Both are whole runs of `train`, one after the other; files lie in the page cache, so no disk is measured.

Example: python -m benchmarks.cache --rounds 5
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results import Benchmark, Target, show
from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import index_of_run, load_processors, sample_keys
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.training.cache_need import CacheNeed
from genrecal_mcore.training.cache_setup import record_of
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_run import train_run

TEACHER = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8, "num_attention_heads": 8}
STUDENT = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6}
NUM_SAMPLES, STEP_SAMPLES, STEPS, FIRST_TIMED_STEP = 48, 8, 12, 2
RANKS = {"teacher rank": 2, "cached": 1}
"""Ranks of a job, by where features come from; the student has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What a run's steps took, in the median."""

    step_s: float
    student_wait_s: float


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each kind; medians are shown.")] = 5,
) -> None:
    """Print the time of a step with a teacher rank and from a cache, and what a cache takes on disk."""
    show(measure(rounds=rounds), table_console())


def measure(*, rounds: int) -> Benchmark:
    """Fill a cache in stage 1, weigh it, and run stage 2 `rounds` times each way, in turn."""
    pool = RankPool()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders = make_folders(root)
        pool.run(train_run, 2, config_of(folders, root, "stage1"), timeout_s=600.0)
        written, planned = cache_bytes(folders, root)
        runs = run_in_turn(pool, folders, root, rounds)
    pool.close()
    step_s = {kind: statistics.median(steps.step_s for steps in runs[kind]) for kind in RANKS}
    waits = {kind: statistics.median(s.student_wait_s / s.step_s for s in runs[kind]) for kind in RANKS}
    ratio = step_s["cached"] / step_s["teacher rank"]
    return Benchmark(
        title="Teacher features from files",
        command=f"python -m benchmarks.cache --rounds {rounds}",
        about=(
            f"Runs of {STEPS} steps of stage 2, {STEP_SAMPLES} samples a step, over gloo: a student rank of "
            f"{STUDENT['num_hidden_layers']} layers of {STUDENT['hidden_size']}, with a teacher rank of "
            f"{TEACHER['num_hidden_layers']} layers of {TEACHER['hidden_size']} or without one; steps from "
            f"{FIRST_TIMED_STEP} on, medians of {rounds} runs. A cache of {NUM_SAMPLES} samples takes "
            f"{written / NUM_SAMPLES:.0f} bytes a sample, {planned / NUM_SAMPLES:.0f} as planned."
        ),
        header=("features from", "ranks", "seconds a step", "time", "student waits"),
        rows=[
            (
                kind,
                str(num_ranks),
                f"{step_s[kind]:.3f}",
                f"{step_s[kind] / step_s['teacher rank']:.2f} x",
                f"{100 * waits[kind]:.1f} %",
            )
            for kind, num_ranks in RANKS.items()
        ],
        targets=[
            Target(name="cached step's time", measured=ratio, sense="at most", limit=1.0),
            Target(
                name="wait for files", measured=waits["cached"], sense="at most", limit=0.05, unit="of a step"
            ),
            Target(name="files against the plan", measured=written / planned, sense="at most", limit=1.05),
        ],
    )


def make_folders(root: Path) -> dict[str, Path]:
    """Write models and data; return their folders."""
    teacher = make_tiny_model(root / "teacher_hf", "internvl_qwen2", seed=1, **TEACHER)
    convert_to_mcore(teacher, root / "teacher")
    return {
        "teacher": root / "teacher",
        "student": make_tiny_model(root / "student", "qwen2_vl", seed=2, **STUDENT),
        "data": make_tiny_dataset(root / "data", NUM_SAMPLES, seed=5),
    }


def config_of(folders: dict[str, Path], root: Path, name: str) -> dict[str, Any]:
    """Return the run `stage1`, which fills a cache, or one of stage 2: `teacher rank` or `cached`."""
    config = raw_config(folders, root / name)
    is_cached = name == "cached"
    config["mesh"] = {"teacher": None if is_cached else {}, "student": {"dp": 1}}
    config["train"] |= {"steps": STEPS, "micro_batch_size": STEP_SAMPLES, "accumulation_steps": 1}
    if name == "stage1":
        config["train"]["steps"] = NUM_SAMPLES // STEP_SAMPLES
        config["teacher"]["write_cache"] = root / "cache"
        return config
    if is_cached:
        config["teacher"]["read_cache"] = root / "cache"
    return config | {"stage": 2, "init_from": root / "stage1"}


def cache_bytes(folders: dict[str, Path], root: Path) -> tuple[int, int]:
    """Return the bytes of a cache's shards, and what was planned for them."""
    config = RunConfig.model_validate(config_of(folders, root, "stage1"))
    index = index_of_run(config, load_processors(config))
    every = np.ones(len(index), dtype=bool)
    need = CacheNeed.of(root / "cache", index, record_of(config), keys=sample_keys(index), is_missing=every)
    written = sum(path.stat().st_size for path in (root / "cache" / "shards").iterdir())
    return written, need.missing_bytes


def run_in_turn(pool: RankPool, folders: dict[str, Path], root: Path, rounds: int) -> dict[str, list[Steps]]:
    """Return what steps took, by kind and round."""
    runs: dict[str, list[Steps]] = {kind: [] for kind in RANKS}
    for number in range(rounds):
        for kind, num_ranks in RANKS.items():
            config = config_of(folders, root, kind)
            config["run"]["dir"] = root / f"{kind}_{number}"
            pool.run(train_run, num_ranks, config, timeout_s=600.0)
            runs[kind].append(steps_of(config["run"]["dir"]))
    return runs


def steps_of(run_dir: Path) -> Steps:
    """Return the medians of a run's steps, without the first."""
    lines = read_metrics(run_dir / "metrics.jsonl")[FIRST_TIMED_STEP:]
    return Steps(
        step_s=statistics.median(line["step_s"] for line in lines),
        student_wait_s=statistics.median(line["student_wait_s"] for line in lines),
    )


if __name__ == "__main__":
    typer.run(main)
