"""Runs the first step of a training run on a pool rank and hands out what it learnt from it."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from genrecal_mcore.config import RunConfig
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.parallel import install_cpu_shims, layout_of
from genrecal_mcore.training.job import set_up_job
from genrecal_mcore.training.recorder import StepRecord
from genrecal_mcore.training.run import build_student_rank, run_teacher_rank
from genrecal_mcore.training.student_loop import accumulate_gradients, gradient_norm

LORA_STD = 0.1


def first_step(raw_config: dict[str, Any]) -> dict[str, Any] | None:
    """Compute losses and gradients of step 0; the first student rank returns them, the others None.

    Keys of the result: `metrics` (a line of metrics.jsonl), `tensors` and `gradients` of all that learns, by
    name, whole, `samples` (numbers of the step's samples in the index).
    """
    install_cpu_shims()
    config = RunConfig.model_validate(raw_config)
    layout = layout_of(config.mesh, world_size=dist.get_world_size())
    config.run.dir.mkdir(parents=True, exist_ok=True)
    rank = dist.get_rank()
    job = set_up_job(config, layout, rank=rank, device=torch.device("cpu"), resume=False)
    if job.topology.is_teacher:
        run_teacher_rank(job)
        return None
    student = build_student_rank(job)
    named = {name: p for name, p in student.module.named_parameters() if p.requires_grad}
    for number, (name, parameter) in enumerate(named.items()):
        if "lora_" in name:
            _draw_(parameter, seed=number)
    tensors = {name: _whole(p.detach()).clone() for name, p in named.items()}
    sums, unit = accumulate_gradients(student, config, 0)
    gradients = {name: _whole(p.grad) for name, p in named.items() if p.grad is not None}
    norm = gradient_norm(student.module)
    student.recorder.record(
        StepRecord(step=0, lr=config.train.lr, sums=sums, unit=unit, grad_norm=norm, seconds=0.0)
    )
    student.recorder.close()
    if job.topology.student_group.rank() != 0:
        return None
    size = job.batch.samples_per_step
    return {
        "metrics": read_metrics(config.run.dir / "metrics.jsonl")[0],
        "tensors": {name: tensor.numpy() for name, tensor in tensors.items()},
        "gradients": {name: tensor.numpy() for name, tensor in gradients.items()},
        "samples": [job.order.index_at(position) for position in range(size)],
    }


def _draw_(parameter: torch.nn.Parameter, *, seed: int) -> None:
    """Fill a sharded parameter in place; adapters start at zero, where half of their gradients vanish."""
    whole = LORA_STD * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    assert isinstance(parameter, DTensor)
    with torch.no_grad():
        local = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.copy_(local)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def raw_config(folders: dict[str, Path], run_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return a run's configuration over tiny checkpoints; `changes` replace whole sections."""
    config: dict[str, Any] = {
        "stage": 1,
        "run": {"dir": run_dir},
        "train": {
            "steps": 1,
            "micro_batch_size": 1,
            "accumulation_steps": 2,
            "dtype": "float32",
            "seed": 3,
        },
        "transfer": {"timeout_s": 60.0},
        "teacher": {"checkpoint": folders["teacher"]},
        "student": {
            "checkpoint": folders["student"],
            "lora": {"r": 3, "alpha": 6, "dropout": 0.0},
        },
        "data": {"sources": [{"path": folders["data"], "images": folders["data"].parent / "images"}]},
        "device": "cpu",
    }
    return config | changes
