"""Writes what `genrecal diagnose` leaves in a folder, with made-up numbers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from genrecal_mcore.observability import DIAGNOSTICS_NAME, FEATURES_NAME, diagnosis_folder

SHARES = {"ce_boundary": 0.4, "ce_rest": 0.3, "kl_boundary": 0.2, "kl_rest": 0.1}
FEATURES = ("student_before", "student_after", "teacher_before", "teacher_after")


def losses(ce: float) -> dict[str, float]:
    return {"ce": ce, "perplexity": math.exp(ce), "num_tokens": 7}


def cosine(*, own: float, others: float) -> dict[str, Any]:
    matrix = np.where(np.eye(10, dtype=bool), own, others).tolist()
    return {"matrix": matrix, "diagonal": own, "off_diagonal": others}


def make_diagnosis(run_dir: Path, *, step: int, is_newest: bool = True, own: float = 0.8) -> Path:
    """Write a diagnosis of a step into a run's folder; the boundary's own cosine is `own`, others 0.1."""
    folder = diagnosis_folder(run_dir, step=None if is_newest else step)
    folder.mkdir(parents=True, exist_ok=True)
    swap = {"num_samples": 6, "own": SHARES, "swapped": SHARES}
    facts = {
        "step": step,
        "num_samples": 6,
        "data": ["heldout.jsonl"],
        "own_heads": {"student": losses(0.9), "teacher": losses(0.2)},
        "paths": {"student": losses(0.5) | SHARES, "teacher": losses(0.3) | SHARES},
        "swaps": {"question": swap, "image": swap},
        "cosine": {
            "num_groups": 1,
            "boundary": cosine(own=own, others=0.1),
            "all": cosine(own=0.6, others=0.5),
        },
    }
    (folder / DIAGNOSTICS_NAME).write_text(json.dumps(facts))
    generator = np.random.default_rng(step)
    features = {name: generator.normal(size=(6, 5)).astype(np.float32) for name in FEATURES}
    save_file(features, folder / FEATURES_NAME)
    return folder
