"""Writes `report.html`: what one or several runs learnt, where their time went, and how their results score.

The page is one file that needs no network: plots are PNGs inside it, and stand in `plots/` beside it too.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from genrecal_mcore.observability.evaluation_table import EvaluationTable
from genrecal_mcore.observability.metrics import MetricValue, read_metrics
from genrecal_mcore.observability.report_page import (
    captioned,
    html_table,
    name_of_file,
    note,
    plot,
    write_page,
)
from genrecal_mcore.observability.sizes import size_text
from genrecal_mcore.status import read_statuses, status_paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metrics = Sequence[dict[str, MetricValue]]


def write_report(out: Path, *, runs: Mapping[str, Path], table: EvaluationTable | None, title: str) -> Path:
    """Write `out/report.html` and `out/plots/*.png` for run folders by display name; return the page's path.

    A page that is there is replaced: everything in it comes from the run folders. Raises `ValueError` naming
    the run when one has no `metrics.jsonl` or not one step in it.
    """
    metrics_of = {name: _metrics_of_run(name, folder) for name, folder in runs.items()}
    (out / "plots").mkdir(parents=True, exist_ok=True)
    sections = [_run_section(out, name, folder, metrics_of[name]) for name, folder in runs.items()]
    overview = html_table(_OVERVIEW_COLUMNS, [_overview_row(n, m) for n, m in metrics_of.items()])
    body = [_evaluation_section(table), "<h2>Runs</h2>", overview, note(_OVERVIEW_NOTE), *sections]
    return write_page(out / "report.html", title=title, body=body)


def _metrics_of_run(name: str, folder: Path) -> Metrics:
    path = folder / "metrics.jsonl"
    metrics = read_metrics(path) if path.is_file() else []
    if not metrics:
        raise ValueError(
            f"run {name!r}: {path} has no finished step; expected the folder of a run that has trained"
        )
    return metrics


def _evaluation_section(table: EvaluationTable | None) -> str:
    if table is None:
        return ""
    return f"<h2>Result</h2>\n{captioned(table)}"


def _run_section(out: Path, name: str, folder: Path, metrics: Metrics) -> str:
    # Every training rank imports this room, and none of them draws.
    from genrecal_mcore.observability.diagnosis_section import diagnosis_section
    from genrecal_mcore.observability.plots import loss_figure, time_figure
    from genrecal_mcore.observability.rank_plot import ranks_figure

    def drawn(kind: str, figure: "Figure") -> str:
        return plot(figure, out / "plots" / f"{name_of_file(name)}_{kind}.png", label=f"{name}: {kind}")

    parts = [f"<section>\n<h2>{escape(name)}</h2>\n{note(_sentence_on(metrics))}"]
    parts += [drawn("losses", loss_figure(metrics)), drawn("time", time_figure(metrics))]
    if status_paths(folder):
        parts.append(drawn("ranks", ranks_figure(read_statuses(folder))))
    parts += diagnosis_section(folder, metrics, drawn)
    for file_name, label in (("config.yaml", "Resolved configuration"), ("versions.txt", "Versions")):
        if (folder / file_name).is_file():
            text = escape((folder / file_name).read_text(encoding="utf-8"))
            parts.append(f"<details><summary>{label}</summary><pre>{text}</pre></details>")
    return "\n".join([*parts, "</section>"])


_OVERVIEW_NOTE = (
    "Losses are means over the first and the last five steps. Waits are those of the student ranks for the "
    "teacher, as a share of the step time."
)
_OVERVIEW_COLUMNS = (
    "Run",
    "Stage",
    "Steps",
    "Samples",
    "Loss, first",
    "Loss, last",
    "Time",
    "Answer tokens/s",
    "Student waited",
    "Received",
    "Peak memory",
)


def _overview_row(name: str, metrics: Metrics) -> tuple[str, ...]:
    last, step_s = metrics[-1], _total(metrics, "step_s")
    waited = _total(metrics, "student_wait_s")
    return (
        name,
        f"{last['stage']}",
        f"{len(metrics)}",
        _count(last["samples"]),
        f"{_loss_near(metrics[:5]):.3f}",
        f"{_loss_near(metrics[-5:]):.3f}",
        _duration(step_s),
        _count(_total(metrics, "answer_tokens_student") / step_s if step_s else None),
        f"{100 * waited / step_s:.0f} %" if step_s and last["student_wait_s"] is not None else "-",
        _bytes(_total(metrics, "bytes_received")),
        _bytes(max((step["peak_memory_bytes"] or 0) for step in metrics)),
    )


def _sentence_on(metrics: Metrics) -> str:
    first, last = metrics[0]["step"], metrics[-1]["step"]
    seconds = _total(metrics, "step_s") / len(metrics)
    return f"Steps {first} to {last}, {seconds:.2f} s a step on average. Pale lines are single steps."


def _loss_near(metrics: Metrics) -> float:
    losses = [step["loss"] for step in metrics if step["loss"] is not None]
    return fmean(losses) if losses else float("nan")


def _total(metrics: Metrics, field: str) -> float:
    return sum(step[field] or 0 for step in metrics)


def _count(value: MetricValue) -> str:
    return "-" if value is None else f"{value:,.0f}".replace(",", " ")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _bytes(num_bytes: float) -> str:
    return size_text(num_bytes) if num_bytes else "-"
