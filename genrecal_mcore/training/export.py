"""Writes what a run leads to: an ordinary Hugging Face student, and the Recalibrator beside it."""

import fcntl
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from genrecal_mcore.config import RunConfig, load_run_config
from genrecal_mcore.layouts import open_checkpoint, published_tensors
from genrecal_mcore.models import load_student
from genrecal_mcore.training.student_assembly import apply_result, recalibrator_result, result_of

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")


def export_student(run_dir: Path, out: Path, *, step: int | None = None) -> None:
    """Write `out/student` (Hugging Face layout, adapters merged) and `out/recalibrator.safetensors`, of the
    newest checkpoint or of the one after `step` steps.

    The student has the dtype and the layout of the files it came from; what no run trained is byte-
    equal. A run of method `sft` has no Recalibrator and writes none. Raises `ValueError` when `out` exists or
    `run_dir` is not a run with that checkpoint; nothing is left behind on failure.
    """
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out or remove it")
    config = _config_of(run_dir)
    partial = out.with_name(f".partial_{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_student(config, run_dir, partial / "student", step=step)
        if config.method == "genrecal":
            tensors = recalibrator_result(run_dir, step=step)
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, partial / "recalibrator.safetensors")
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def exported_student(run_dir: Path, *, step: int | None = None) -> Path:
    """Return the Hugging Face folder of a run's student as its newest checkpoint has it, or that of `step`.

    It is in `run_dir/students/`, named after the checkpoint, and written when it is not there yet, by one
    process at a time. Raises `ValueError` when `run_dir` is not a run with that checkpoint.
    """
    _config_of(run_dir)
    out = run_dir / "students" / result_of(run_dir, step=step).name
    out.parent.mkdir(exist_ok=True)
    with (out.parent / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            export_student(run_dir, out, step=step)
    return out / "student"


def _config_of(run_dir: Path) -> RunConfig:
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a run folder: {path} does not exist")
    return load_run_config(path)


def _write_student(config: RunConfig, run_dir: Path, folder: Path, *, step: int | None) -> None:
    source = config.student.checkpoint
    # Adapters are merged in fp32, and the sum rounded once to the dtype of the files.
    student = load_student(source, dtype=torch.float32)
    apply_result(student, run_dir, step=step)
    write_in_layout_of(source, student, folder)


def write_in_layout_of(source: Path, student: PreTrainedModel, folder: Path) -> None:
    """Write a student as `source` is: names, packing, dtype and the files beside the weights."""
    checkpoint = open_checkpoint(source)
    tensors = student.to(checkpoint.dtype(next(iter(checkpoint.holder)))).state_dict()
    keys = [key for key in checkpoint.holder if key in tensors]
    names = published_tensors(checkpoint.layout, checkpoint.config, keys, _InMemory(tensors))
    folder.mkdir(parents=True)
    save_torch_state_dict({name: tensor.clone() for name, tensor in names}, folder)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHT_SUFFIXES):
            shutil.copy2(path, folder / path.name)


class _InMemory:
    """Tensors of a module, by their names."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def read(self, key: str) -> torch.Tensor:
        return self.tensors[key]
