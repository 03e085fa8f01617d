"""One JSON line a step: the numbers of a run, under names that every reader of a run folder can rely on.

It refuses a step whose fields are not exactly `METRIC_FIELDS`. It measures nothing itself: see `training`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

MetricValue = int | float | None

METRIC_FIELDS: tuple[str, ...] = (
    "step",
    "stage",
    "lr",
    "loss",
    "ce_recal",
    "kl_recal",
    "ce_recal_boundary",
    "ce_recal_rest",
    "kl_recal_boundary",
    "kl_recal_rest",
    "ce_reg",
    "kl_reg",
    "ce_student",
    "kl_student",
    "answer_tokens_teacher",
    "answer_tokens_student",
    "samples",
    "step_s",
    "compute_s",
    "data_s",
    "optimizer_s",
    "checkpoint_s",
    "transfer_s",
    "student_wait_s",
    "teacher_wait_s",
    "bytes_received",
    "peak_memory_bytes",
    "grad_norm",
    "grad_norm_z_qs_boundary",
    "grad_norm_z_qs_rest",
)
"""The fields of every line, in this order. A term that a stage does not have is null.

`step_s` is the first student rank's; what went into the step, `compute_s` to `student_wait_s`, are means over
the student ranks. What a checkpoint cost is on the line of the step after it.
"""


class MetricsWriter:
    """Append one line a step to `metrics.jsonl`, flushed, so that a killed run leaves every finished step."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        """Open `path` for a run whose next step is `first_step`.

        Lines of that step and later ones are cut off first: a resumed run runs them again, and its file
        then equals that of a run that was never disturbed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _cut_from(path, first_step=first_step)
        self._path = path
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, metrics: Mapping[str, MetricValue]) -> None:
        """Append one step. Raise `ValueError` naming the unknown and the missing fields, if there are any."""
        unknown = sorted(metrics.keys() - set(METRIC_FIELDS))
        missing = [name for name in METRIC_FIELDS if name not in metrics]
        if unknown or missing:
            raise ValueError(
                f"{self._path}: a step must have exactly the fields of METRIC_FIELDS; "
                f"unknown: {unknown}, missing: {missing}"
            )
        line = json.dumps({name: metrics[name] for name in METRIC_FIELDS})
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, MetricValue]]:
    """Return the steps of a `metrics.jsonl`, oldest first.

    An unfinished last line (the run was killed while it wrote) is left out. Raises `ValueError` with file and
    line number for any other line that is not JSON.
    """
    return [step for _, step in _finished_lines(path)]


def _finished_lines(path: Path) -> list[tuple[str, dict[str, MetricValue]]]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    finished = [line for line in lines if line.endswith("\n")]
    return [(line, _parse(line, where=f"{path}, line {number}")) for number, line in enumerate(finished, 1)]


def _parse(line: str, *, where: str) -> dict[str, MetricValue]:
    try:
        step = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected one JSON object a line, found {line[:60]!r} ({error})") from None
    if not isinstance(step, dict) or "step" not in step:
        raise ValueError(f"{where}: expected a JSON object with the field 'step', found {line[:60]!r}")
    return step


def _cut_from(path: Path, *, first_step: int) -> None:
    kept = [line for line, step in _finished_lines(path) if (step["step"] or 0) < first_step]
    shorter = path.with_name(path.name + ".tmp")
    with shorter.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    shorter.replace(path)
