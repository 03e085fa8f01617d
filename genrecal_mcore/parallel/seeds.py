"""Derives the random seed of every microbatch from the run's seed, so that nothing random needs saving."""

from hashlib import sha256

import torch


def unit_seed(seed: int, *, step: int, microbatch: int, student_rank: int) -> int:
    """Return a 63-bit seed that depends on all arguments and on nothing else."""
    text = f"{seed}/{step}/{microbatch}/{student_rank}"
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def seed_unit(seed: int, *, step: int, microbatch: int, student_rank: int) -> None:
    """Seed torch's global generators for one microbatch.

    LoRA's dropout is torch's own module and draws from the global generator. Seeding it for each microbatch
    makes a resumed run repeat the bits of one that never stopped.
    """
    torch.manual_seed(unit_seed(seed, step=step, microbatch=microbatch, student_rank=student_rank))
