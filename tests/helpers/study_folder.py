"""Writes the files of a study with made-up numbers: four arms, two pairs, two seeds, one task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrecal_mcore.observability import METRIC_FIELDS, MetricsWriter
from tests.helpers.diagnosis import make_diagnosis

ACCURACIES = {
    ("sft", "one"): (0.50, 0.52),
    ("genrecal", "one"): (0.54, 0.58),
    ("genrecal", "other"): (0.60, 0.61),
    ("plain", "one"): (0.51, 0.49),
    ("untouched", "one"): (0.10, 0.10),
}
"""By arm and pair, one a seed."""
STAGES = {"sft": [2, 3], "genrecal": [1, 2, 3], "plain": [1, 2, 3], "untouched": []}
OWN_COSINES = {"genrecal": 0.8, "plain": 0.2}


def make_study(out: Path, *, diagnosed: bool = True, with_courses: bool = True) -> Path:
    trials = list(_trials(out))
    for trial in trials:
        for stage, run in trial["runs"].items():
            _make_run(Path(run), stage=int(stage))
            if diagnosed and stage == "1":
                own = OWN_COSINES[trial["arm"]] + 0.02 * trial["seed"]
                make_diagnosis(Path(run), step=4, own=own)
                make_diagnosis(Path(run), step=0, is_newest=False)
            if with_courses:
                _make_course(Path(run), trial, stage=int(stage))
    _write(out / "study.json", json.dumps(_grid(diagnosed) | {"trials": trials}))
    failed = _names("genrecal", "one", 2) | {"status": "failed", "reason": "exit code <1>"}
    lines = [{**trial, "metric": "accuracy", "value": _accuracy(trial)} for trial in trials]
    _write(out / "results.jsonl", "".join(json.dumps(line) + "\n" for line in [*lines, failed]))
    _write(out / "summary.csv", "pair,task,arm,mean,difference\none,v1.5,genrecal,56.0,+5.000000001\n")
    return out


def _grid(diagnosed: bool) -> dict[str, Any]:
    return {
        "reference": "sft",
        "arms": {name: {"stages": stages} for name, stages in STAGES.items()},
        "pairs": {
            "one": {"teacher": "models/big", "student": "models/tiny"},
            "other": {"teacher": "models/bigger", "student": "models/tiny"},
        },
        "diagnose": {"arms": ["plain", "genrecal"]} if diagnosed else None,
    }


def _trials(out: Path) -> Iterator[dict[str, Any]]:
    for arm, pair in ACCURACIES:
        for seed in (0, 1):
            runs = {str(stage): str(out / "runs" / f"{arm}_{pair}_{seed}_{stage}") for stage in STAGES[arm]}
            yield _names(arm, pair, seed) | {"runs": runs}


def _names(arm: str, pair: str, seed: int) -> dict[str, Any]:
    return {"arm": arm, "pair": pair, "task": "shapes", "seed": seed}


def _accuracy(trial: dict[str, Any]) -> float:
    return ACCURACIES[trial["arm"], trial["pair"]][trial["seed"]]


def _make_run(run: Path, *, stage: int) -> None:
    with MetricsWriter(run / "metrics.jsonl", first_step=0) as writer:
        for step in range(4):
            values = {"step": step, "stage": stage, "ce_recal": 2.0 - step}
            writer.write(dict.fromkeys(METRIC_FIELDS) | values)


def _make_course(run: Path, trial: dict[str, Any], *, stage: int) -> None:
    """Give each stage two checkpoints; at the last one the student is as accurate as the result says."""
    course = []
    for step, value in ((2, _accuracy(trial) - 0.1), (4, _accuracy(trial))):
        at = {"stage": stage, "step": step, "progress": stage - 1 + step / 4}
        course.append({"benchmark": trial["task"], **at, "value": value})
    _write(run / "accuracy" / trial["task"] / "course.json", json.dumps(course))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
