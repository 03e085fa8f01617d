"""Runs whole training runs on a pool rank, undisturbed or killed."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch.distributed as dist

from genrecal_mcore.config import RunConfig
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.training import train, write_feature_cache
from genrecal_mcore.training.checkpoint_writer import CheckpointWriter
from genrecal_mcore.training.recorder import StepRecorder
from genrecal_mcore.training.written_features import WrittenFeatures
from genrecal_mcore.transfer import FeatureSender
from tests.helpers.full_disk import full_disk

MEASURED_FIELDS = (
    "step_s",
    "compute_s",
    "data_s",
    "optimizer_s",
    "checkpoint_s",
    "transfer_s",
    "student_wait_s",
    "teacher_wait_s",
    "peak_memory_bytes",
)
"""Fields of a metrics line that differ from run to run."""


def numbers_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return a run's metrics so far, without what is measured; nothing before the first step."""
    path = run_dir / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    return [{name: line[name] for name in line if name not in MEASURED_FIELDS} for line in lines]


def train_run(raw_config: dict[str, Any], *, resume: bool = False, stop_file: Path | None = None) -> None:
    """Train as `genrecal train` does, in the process group that the pool has made."""
    train(RunConfig.model_validate(raw_config), resume=resume, stop_file=stop_file)


def resume_run(raw_config: dict[str, Any]) -> None:
    """Train as `genrecal train --resume` does."""
    train_run(raw_config, resume=True)


def run_cache_pass(raw_config: dict[str, Any], *, stop_file: Path | None = None) -> None:
    """Fill `teacher.write_cache` as `genrecal cache` does."""
    write_feature_cache(RunConfig.model_validate(raw_config), stop_file=stop_file)


def cache_until_student_dies(raw_config: dict[str, Any], dying_rank: int, num_units: int) -> None:
    """Fill a cache, and kill -9 one student rank when it has taken so many units."""
    take, taken = WrittenFeatures.take, []

    def take_and_die(self: WrittenFeatures, unit: Any, batch: Any) -> Any:
        taken.append(take(self, unit, batch))
        if dist.get_rank() == dying_rank and len(taken) == num_units:
            os.kill(os.getpid(), signal.SIGKILL)
        return taken[-1]

    WrittenFeatures.take = take_and_die  # type: ignore[method-assign]
    run_cache_pass(raw_config)


def train_until_student_dies(raw_config: dict[str, Any], dying_rank: int, last_step: int) -> None:
    """Train, and kill -9 one student rank once it has finished `last_step`."""
    record = StepRecorder.record

    def record_and_die(self: StepRecorder, step_record: Any) -> None:
        record(self, step_record)
        if dist.get_rank() == dying_rank and step_record.step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    StepRecorder.record = record_and_die  # type: ignore[method-assign]
    train_run(raw_config)


def train_until_teacher_dies(raw_config: dict[str, Any], dying_rank: int, last_step: int) -> None:
    """Train, and kill -9 one teacher rank when it is asked for the first unit after `last_step`."""
    send = FeatureSender.send

    def die_or_send(self: FeatureSender, unit: Any, *args: Any, **options: Any) -> None:
        if dist.get_rank() == dying_rank and unit.step > last_step:
            os.kill(os.getpid(), signal.SIGKILL)
        send(self, unit, *args, **options)

    FeatureSender.send = die_or_send  # type: ignore[method-assign]
    train_run(raw_config)


def train_on_a_full_disk(raw_config: dict[str, Any], full_at: int) -> None:
    """Train; the disk is full while the checkpoint of step `full_at` is written."""
    save = CheckpointWriter.save

    def limited(self: CheckpointWriter, state: Any, tensors: Any) -> None:
        with full_disk() if state.step == full_at else nullcontext():
            save(self, state, tensors)
            self.wait()  # the limit holds for the whole process, the metrics' file too

    CheckpointWriter.save = limited  # type: ignore[method-assign]
    try:
        train_run(raw_config)
    finally:
        CheckpointWriter.save = save  # type: ignore[method-assign]


def train_with_two_seeds(raw_config: dict[str, Any], num_teacher_ranks: int) -> None:
    """Train with another sample order on the teacher ranks than on the student ranks."""
    if dist.get_rank() < num_teacher_ranks:
        raw_config["train"]["seed"] += 1
    train_run(raw_config)
