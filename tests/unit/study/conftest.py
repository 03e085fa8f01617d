"""A grid over files that are not there: enough for everything that comes before a command."""

from pathlib import Path
from typing import Any

import pytest
import yaml

STAGE = {
    "train": {"steps": 6, "micro_batch_size": 2},
    "run": {"dir": "by/hand"},
    "student": {"checkpoint": "by/hand"},
    "data": {"sources": [{"path": "by/hand", "images": "by/hand"}]},
}
TASK = {"sources": [{"path": "train.jsonl", "images": "i"}], "heldout": {"path": "held.jsonl", "images": "i"}}


@pytest.fixture
def raw_grid(tmp_path: Path) -> dict[str, Any]:
    """Give a grid as its YAML holds it: SFT as the reference, and two arms that share stage 1."""
    for stage in (1, 2):
        config = {"stage": stage, **STAGE}
        (tmp_path / f"stage{stage}.yaml").write_text(yaml.safe_dump(config))
    return {
        "out": str(tmp_path / "out"),
        "stages": {stage: str(tmp_path / f"stage{stage}.yaml") for stage in (1, 2)},
        "pairs": {"main": {"teacher": "teacher", "student": "student"}},
        "tasks": {"names": TASK, "short": TASK},
        "seeds": [0, 1],
        "reference": "sft",
        "arms": {
            "sft": {"method": "sft", "stages": [2]},
            "genrecal": {"stages": [1, 2], "overrides": {"mesh.teacher": {}}},
            "frozen": {
                "stages": [1, 2],
                "overrides": {"mesh.teacher": {}},
                "stage_overrides": {2: {"recalibrator.learns_in_stage_2": False}},
                "tasks": ["names"],
            },
        },
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Give a function that writes a grid and returns its path."""

    def to_file(raw: dict[str, Any]) -> Path:
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return path

    return to_file
