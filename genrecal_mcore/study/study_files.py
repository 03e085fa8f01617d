"""Reads what a study left: the resolved grid with its trials, results, and which runs were diagnosed."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrecal_mcore.observability import diagnosed_steps

Place = tuple[str, str]
"""Pair and task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRuns:
    """One seed of one arm on one pair and task, and the run folder of each of its stages."""

    arm: str
    place: Place
    seed: int
    runs: dict[int, Path]

    @property
    def diagnosed_run(self) -> Path | None:
        """The run of the first stage that `genrecal diagnose` looked into."""
        return next((run for _, run in sorted(self.runs.items()) if diagnosed_steps(run)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFiles:
    """The content of a study's `study.json`, `results.jsonl` and `summary.csv`."""

    grid: dict[str, Any]
    trials: list[TrialRuns]
    results: list[dict[str, Any]]
    summary: list[list[str]]
    """The table's head, then its rows."""

    @property
    def places(self) -> list[Place]:
        """Every pair and task, in order."""
        return list(dict.fromkeys(trial.place for trial in self.trials))

    @property
    def diagnosed_arms(self) -> Sequence[str]:
        """The arms whose runs the grid wants diagnosed."""
        return (self.grid.get("diagnose") or {}).get("arms", ())

    def accuracies(self, place: Place) -> dict[str, dict[int, float]]:
        """Return accuracies in percent of a place, by arm and seed."""
        found: dict[str, dict[int, float]] = {}
        for line in self.results:
            if (line["pair"], line["task"]) == place and line.get("value") is not None:
                found.setdefault(line["arm"], {})[line["seed"]] = 100 * line["value"]
        return found

    def diagnosed(self, place: Place) -> dict[str, dict[int, Path]]:
        """Return the diagnosed run folders of a place, by arm and seed, arms in the grid's order."""
        found = {
            arm: {
                trial.seed: run
                for trial in self.trials
                if trial.arm == arm and trial.place == place and (run := trial.diagnosed_run) is not None
            }
            for arm in self.diagnosed_arms
        }
        return {arm: runs for arm, runs in found.items() if runs}


def read_study(out: Path) -> StudyFiles:
    """Read a study's folder; raises `ValueError` naming the file that a folder of a study would have."""
    for name in ("study.json", "results.jsonl", "summary.csv"):
        if not (out / name).is_file():
            raise ValueError(f"{out} is not the folder of a study: {out / name} does not exist")
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        summary = list(csv.reader(file))
    return StudyFiles(
        grid={key: value for key, value in record.items() if key != "trials"},
        trials=[_trial(trial) for trial in record["trials"]],
        results=[json.loads(line) for line in lines],
        summary=summary,
    )


def _trial(record: dict[str, Any]) -> TrialRuns:
    return TrialRuns(
        arm=record["arm"],
        place=(record["pair"], record["task"]),
        seed=record["seed"],
        runs={int(stage): Path(run) for stage, run in record["runs"].items()},
    )
