"""How a model is asked, and the record of it that an interrupted evaluation is compared with."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from genrecal_mcore.config import sha256_of
from genrecal_mcore.evaluation.question import Question


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """How a model is asked."""

    batch_tokens: int = 16384
    """Most tokens of a batch, prompts, answers and padding: what bounds its memory."""
    max_new_tokens: int | None = None
    """An answer that has not ended by then is cut off there; None takes what the benchmark's entry says."""
    num_workers: int = 2
    """Threads that decode images while the model answers; 0 decodes in between."""
    max_skipped_share: float = 0.01
    """Largest share of a file's rows that may be broken."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one; under torchrun each local rank has its own GPU."""
    overwrite: bool = False
    """Begins anew what is there already; otherwise an evaluation goes on where it was interrupted."""

    def __post_init__(self) -> None:
        for name, least in (("batch_tokens", 1), ("max_new_tokens", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, found {value}")
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"--max-skipped-share must be in 0 to 1, found {self.max_skipped_share:g}")

    def chosen_device(self) -> torch.device:
        """Return this rank's device; raises `ValueError` when the host has fewer GPUs than ranks."""
        if self.device == "cpu" or self.device == "auto" and not torch.cuda.is_available():
            return torch.device("cpu")
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"local rank {local_rank} has no GPU: this host has {torch.cuda.device_count()}; start as "
                "many ranks as GPUs"
            )
        return torch.device("cuda", local_rank)


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedModel:
    """The model that is asked."""

    folder: Path
    digest: str
    device: torch.device


def model_digest(folder: Path) -> str:
    """Return a sha256 over all files of a model's folder."""
    digest = sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def settings_record(
    model: AskedModel, questions: Iterable[Question], *, file: Path, max_new_tokens: int, batch_tokens: int
) -> dict[str, str | int]:
    """Return everything that an answer depends on, or a digest of it."""
    asked = sha256(repr([(question.index, question.turns) for question in questions]).encode())
    return {
        "model": model.digest,
        "file": sha256_of(file),
        "questions": asked.hexdigest(),
        "max_new_tokens": max_new_tokens,
        "batch_tokens": batch_tokens,
        "device": model.device.type,
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }
