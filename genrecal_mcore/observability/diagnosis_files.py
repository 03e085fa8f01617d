"""Names the files that `genrecal diagnose` writes, and finds them; their formats stand in docs/design.md.

The newest checkpoint's lie in the run folder, those of a chosen step in `diagnostics/step_00000100` below it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

DIAGNOSTICS_NAME = "diagnostics.json"
FEATURES_NAME = "features.safetensors"


def diagnosis_folder(run_dir: Path, *, step: int | None) -> Path:
    """Return where the diagnosis of a step lies, or that of the newest checkpoint."""
    return run_dir if step is None else run_dir / "diagnostics" / f"step_{step:08d}"


def read_diagnostics(folder: Path) -> dict[str, Any] | None:
    """Return what `genrecal diagnose` found and left in a folder, if it did."""
    path = folder / DIAGNOSTICS_NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_features(folder: Path) -> dict[str, np.ndarray]:
    """Return the features `[n, h]` that `genrecal diagnose` left in a folder, by kind."""
    return load_file(folder / FEATURES_NAME)


def diagnosed_steps(run_dir: Path) -> dict[int, Path]:
    """Return the folder of each diagnosed step of a run, in their order."""
    found = {}
    for folder in (*(run_dir / "diagnostics").glob("step_*"), run_dir):
        facts = read_diagnostics(folder)
        if facts is not None:
            found[int(facts["step"])] = folder
    return dict(sorted(found.items()))
