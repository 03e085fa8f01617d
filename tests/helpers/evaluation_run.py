"""Runs whole evaluations on pool ranks, undisturbed or killed."""

import os
import signal
from pathlib import Path

import torch.distributed as dist

from genrecal_mcore.evaluation import BenchmarkFile, EvaluationSettings, evaluate_model, joined_ranks
from genrecal_mcore.evaluation.results import PartWriter

SETTINGS = EvaluationSettings(batch_tokens=600, max_new_tokens=6, num_workers=1, device="cpu")
"""Small batches: several for each rank."""


def evaluate_files(model_dir: Path, files: list[Path], out: Path) -> None:
    """Evaluate as `genrecal evaluate` does, in the process group that the pool has made, if any."""
    parsed = [BenchmarkFile.parse(str(path)) for path in files]
    with joined_ranks() as ranks:
        evaluate_model(model_dir, parsed, out=out, settings=SETTINGS, ranks=ranks)


def evaluate_until_rank_dies(model_dir: Path, files: list[Path], out: Path, dying_rank: int) -> None:
    """Evaluate, and kill -9 one rank when it has written its first batch."""
    append = PartWriter.append

    def append_and_die(self: PartWriter, *args: object) -> None:
        append(self, *args)  # type: ignore[arg-type]
        if dist.get_rank() == dying_rank:
            os.kill(os.getpid(), signal.SIGKILL)

    PartWriter.append = append_and_die  # type: ignore[method-assign]
    evaluate_files(model_dir, files, out)
