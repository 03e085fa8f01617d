"""What a study leaves beside its runs, read off the disk each time: results, the resolved grid, the summary.

results.jsonl  a line a trial: its accuracy, or why it has none
study.json     the grid, and the run folders of each trial
summary.md  summary.csv
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrecal_mcore.evaluation.results import SCORES_NAME
from genrecal_mcore.study.grid import Grid
from genrecal_mcore.study.jobs import evaluation_folder, jobs_behind, jobs_of
from genrecal_mcore.study.running import Failure, read_failures
from genrecal_mcore.study.statistics import rows_of
from genrecal_mcore.study.summary import summary_csv, summary_markdown
from genrecal_mcore.study.trials import Trial


def write_results(grid: Grid, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Write the four files from what is on disk and return the lines of `results.jsonl`.

    A trial that neither failed nor has a score is left out: another task of the study has it.
    """
    found = read_failures(grid.out)
    failures = {job.name: found[job.name] for job in jobs_of(grid, trials) if job.name in found}
    lines = [line for trial in trials if (line := _result(grid, trial, failures)) is not None]
    rows = rows_of(lines, reference=grid.reference)
    _write(grid.out / "results.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _write(grid.out / "study.json", json.dumps(_record(grid, trials), indent=2) + "\n")
    _write(grid.out / "summary.csv", summary_csv(rows))
    _write(grid.out / "summary.md", summary_markdown(rows, failures, reference=grid.reference))
    return lines


def _result(grid: Grid, trial: Trial, failures: Mapping[str, Failure]) -> dict[str, Any] | None:
    run = str(trial.runs[-1].folder if trial.runs else trial.untouched)
    for job in jobs_behind(trial):
        if job in failures:
            reason = f"{job}: {failures[job].reason}"
            return trial.names | {"status": "failed", "reason": reason, "run": run}
    scores = evaluation_folder(grid, trial) / SCORES_NAME
    if not scores.is_file():
        return None
    found = json.loads(scores.read_text(encoding="utf-8"))[trial.task]
    return trial.names | {"metric": "accuracy", "value": found["reported"]["value"], "run": run}


def _record(grid: Grid, trials: Sequence[Trial]) -> dict[str, Any]:
    runs = [
        trial.names | {"runs": {str(run.config.stage): str(run.folder) for run in trial.runs}}
        for trial in trials
    ]
    return grid.model_dump(mode="json") | {"trials": runs}


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".partial_{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
