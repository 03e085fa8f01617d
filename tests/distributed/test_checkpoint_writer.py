"""Checkpoints that are written while training goes on."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from genrecal_mcore.training.checkpoint import RunState, checkpoints_of, read_model_tensors
from genrecal_mcore.training.checkpoint_writer import CheckpointWriter
from tests.helpers.rank_pool import RankPool

pytestmark = pytest.mark.distributed


def state_of(step: int) -> RunState:
    return RunState(step=step, samples=step, seed=0, data_digest="d", student_digest="s", teacher_digest=None)


def save_and_go_on(run_dir: Path) -> Any:
    """Save twice; the thread is held up until the tensors have changed again."""
    group = dist.new_group(backend="gloo")
    mesh = DeviceMesh("cpu", list(range(dist.get_world_size())))
    weight = distribute_tensor(torch.zeros(7, 3), mesh, [Shard(0)])
    tensors = {"model": {"weight": weight, "bias": torch.zeros(5)}, "optimizer": {}}
    writer = CheckpointWriter(run_dir, group=group, keep=2)
    for step in (1, 2):
        weight.to_local().fill_(step)
        tensors["model"]["bias"].fill_(step)
        held = threading.Event()
        writer.thread.submit(held.wait)
        writer.save(state_of(step), tensors)
        weight.to_local().fill_(-1)
        tensors["model"]["bias"].fill_(-1)
        held.set()
    is_written = writer.wait()
    writer.close()
    return is_written


@pytest.mark.parametrize("dp", [1, 2])
def test_a_checkpoint_holds_the_tensors_of_its_step_whatever_training_does_meanwhile(
    dp: int, rank_pool: RankPool, tmp_path: Path
) -> None:
    assert rank_pool.run(save_and_go_on, dp, tmp_path) == [True] * dp
    checkpoints = checkpoints_of(tmp_path)
    assert [path.name for path in checkpoints] == ["step_00000001", "step_00000002"]
    for step, checkpoint in enumerate(checkpoints, start=1):
        for tensor in read_model_tensors(checkpoint, "").values():
            assert (tensor == step).all()
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000002\n"
