"""Saves and finds the state of a run: what learns, the optimizer, the step, the seeds.

A checkpoint is a folder `checkpoints/step_00000100` in torch's distributed format, written under another name
and renamed when it is whole; the file `checkpoints/latest` names the newest for people and scripts. Frozen
tensors are not in it: `state.json` names the checkpoints that hold them.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from genrecal_mcore.config import RunConfig, load_teacher_manifest
from genrecal_mcore.training.integrity import DIGESTS_NAME, digests_of, point_latest_to

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"
STEP_PREFIX = "step_"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """Where a run stands: everything that is not a tensor."""

    step: int
    """Steps done; the next one has this number."""
    samples: int
    """Position in the sample order: samples consumed so far."""
    seed: int
    data_digest: str
    student_digest: str
    teacher_digest: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class InputDigests:
    """Names the frozen inputs of a run by their content."""

    student: str
    teacher: str | None


def input_digests(config: RunConfig) -> InputDigests:
    """Return the digests of the student's weights and of the teacher."""
    teacher = None
    if config.teacher is not None:
        teacher = load_teacher_manifest(config.teacher.checkpoint).digest()
    return InputDigests(student=weights_digest(config.student.checkpoint), teacher=teacher)


def weights_digest(folder: Path) -> str:
    """Return a sha256 over the safetensors files of a folder, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def checkpoints_dir(run_dir: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return run_dir / "checkpoints"


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None; its files are not looked at."""
    found = checkpoints_of(run_dir)
    return found[-1] if found else None


def is_finished(config: RunConfig) -> bool:
    """Return whether a run has left the checkpoint of its last step."""
    newest = latest_checkpoint(config.run.dir)
    return newest is not None and step_of(newest) == config.train.steps


def checkpoints_of(run_dir: Path) -> list[Path]:
    """Return a run's checkpoints, the newest last."""
    return sorted(checkpoints_dir(run_dir).glob(f"{STEP_PREFIX}*"))


def checkpoint_of_step(run_dir: Path, step: int) -> Path:
    """Return the checkpoint that a run wrote after `step` steps.

    Raises `ValueError` naming the steps whose checkpoints are there when that one is not.
    """
    folders = {step_of(folder): folder for folder in checkpoints_of(run_dir)}
    if step not in folders:
        there = ", ".join(map(str, folders)) or "none"
        raise ValueError(
            f"{run_dir} holds no checkpoint of step {step}; those there: {there}. "
            "train.checkpoint_every_steps and train.keep_checkpoints decide which are kept"
        )
    return folders[step]


def step_of(checkpoint: Path) -> int:
    """Return the steps done at a checkpoint, as its folder's name says."""
    return int(checkpoint.name.removeprefix(STEP_PREFIX))


def read_run_state(checkpoint: Path) -> RunState:
    """Read a checkpoint's `state.json`; raises `ValueError` naming the file when it is damaged."""
    path = checkpoint / STATE_NAME
    try:
        return RunState(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a run state ({error}); remove {checkpoint} to use the one before"
        ) from None


def trainable_state(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return references to every tensor that learns and to its optimizer state, by name.

    The optimizer's tensors come into being at its first step, or, for loading, in `allocate_optimizer_state`.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {
        "model": {name: p.detach() for name, p in named.items()},
        "optimizer": {name: optimizer.state[p] for name, p in named.items() if p in optimizer.state},
    }


def allocate_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Make AdamW allocate its moments without moving any parameter, so that a checkpoint can be read into
    them.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    optimizer.step()
    for group, rate, decay in zip(optimizer.param_groups, rates, decays, strict=True):
        group["lr"], group["weight_decay"] = rate, decay
    optimizer.zero_grad(set_to_none=True)


def save_checkpoint(
    run_dir: Path, state: RunState, tensors: dict[str, Any], *, group: dist.ProcessGroup, keep: int
) -> bool:
    """Write `step_N` atomically (collective over `group`) and remove all but the newest `keep`.

    Returns whether it could be written; when not, for example because the disk is full, what was written is
    removed, the reason logged, and older checkpoints stay.
    """
    final = checkpoints_dir(run_dir) / f"{STEP_PREFIX}{state.step:08d}"
    partial = final.with_name(f".partial_{final.name}")
    problem = _on_writer(lambda: _make_empty(partial), group)
    problem = problem or _write_tensors(partial, tensors, group)
    problem = problem or _on_writer(lambda: _finish(partial, final, state, keep=keep), group)
    if problem is None:
        logger.info("checkpoint of step %d written to %s", state.step, final)
        return True
    logger.error(
        "checkpoint of step %d was not written: %s; the run goes on, and its older checkpoints stay",
        state.step,
        problem,
    )
    _on_writer(lambda: shutil.rmtree(partial, ignore_errors=True), group)
    return False


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_tensors(partial: Path, tensors: dict[str, Any], group: dist.ProcessGroup) -> str | None:
    """Write every rank's share; return what went wrong, the same on all ranks."""
    try:
        dcp.save(tensors, checkpoint_id=partial, process_group=group)
    except CheckpointException as error:  # raised on every rank when one of them fails
        causes = {rank: str(failure[0]) for rank, failure in error.failures.items()}
        return "; ".join(f"rank {rank}: {cause}" for rank, cause in sorted(causes.items()))
    return None


def _finish(partial: Path, final: Path, state: RunState, *, keep: int) -> None:
    (partial / STATE_NAME).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
    text = json.dumps(digests_of(partial), indent=2) + "\n"
    (partial / DIGESTS_NAME).write_text(text, encoding="utf-8")
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    point_latest_to(final)
    for old in checkpoints_of(final.parent.parent)[:-keep]:
        shutil.rmtree(old)


def _on_writer(action: Callable[[], None], group: dist.ProcessGroup) -> str | None:
    """Do something on the group's first rank alone; return on every rank what went wrong there."""
    problem: list[str | None] = [None]
    if group.rank() == 0:
        try:
            action()
        except OSError as error:
            problem[0] = str(error)
    dist.broadcast_object_list(problem, src=dist.get_global_rank(group, 0), group=group)
    return problem[0]


def load_checkpoint(checkpoint: Path, tensors: dict[str, Any], *, group: dist.ProcessGroup) -> None:
    """Read a checkpoint into `tensors` in place, whatever the number of ranks that wrote it (collective)."""
    dcp.load(tensors, checkpoint_id=checkpoint, process_group=group)


def read_model_tensors(checkpoint: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Read the whole tensors below `model.<prefix>` into memory, without any other rank; names lose the
    prefix.
    """
    reader = dcp.FileSystemReader(checkpoint)
    full = f"model.{prefix}"
    tensors = {
        name: torch.empty(stored.size, dtype=stored.properties.dtype)
        for name, stored in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(full) and isinstance(stored, TensorStorageMetadata)
    }
    if tensors:
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return {name.removeprefix(full): tensor for name, tensor in tensors.items()}
