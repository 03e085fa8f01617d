"""Draws one run's metrics: what was learnt (losses) and where the time went.

A panel whose fields are all null in this run is left out. Figures are returned, not shown; see `report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from genrecal_mcore.observability.metrics import MetricValue
from genrecal_mcore.observability.plot_style import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    STYLE,
    legend_above,
    panel_grid,
)

Metrics = Sequence[dict[str, MetricValue]]

MAX_UNSMOOTHED_STEPS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One field of the metrics and how it is drawn."""

    field: str
    label: str
    color: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One small chart over the steps of a run."""

    title: str
    lines: tuple[Line, ...]
    unit: str = ""
    is_smoothed: bool = True
    """Draws a moving mean over the single steps of a long run."""


LOSS_PANELS = (
    Panel(title="Loss", lines=(Line(field="loss", label="all terms", color=INK),)),
    Panel(
        title="Recalibrated features: cross entropy",
        lines=(
            Line(field="ce_recal", label="sum of both", color=GRAY),
            Line(field="ce_recal_boundary", label="boundary position", color=ORANGE),
            Line(field="ce_recal_rest", label="other positions", color=BLUE),
        ),
    ),
    Panel(
        title="Recalibrated features: KL to the teacher",
        lines=(
            Line(field="kl_recal", label="sum of both", color=GRAY),
            Line(field="kl_recal_boundary", label="boundary position", color=ORANGE),
            Line(field="kl_recal_rest", label="other positions", color=BLUE),
        ),
    ),
    Panel(
        title="Regularizer (teacher path)",
        lines=(
            Line(field="ce_reg", label="cross entropy", color=BLUE),
            Line(field="kl_reg", label="KL", color=ORANGE),
        ),
    ),
    Panel(
        title="Student's own head",
        lines=(
            Line(field="ce_student", label="cross entropy", color=GREEN),
            Line(field="kl_student", label="divergence from the teacher's head", color=ORANGE),
        ),
    ),
)
TIME_PANELS = (
    Panel(
        title="Seconds a step, and who waited in it",
        lines=(
            Line(field="step_s", label="step", color=GRAY),
            Line(field="student_wait_s", label="student for teacher", color=BLUE),
            Line(field="teacher_wait_s", label="teacher for student", color=ORANGE),
        ),
        unit="s",
    ),
    Panel(
        title="What the student ranks' seconds went into",
        lines=(
            Line(field="compute_s", label="compute", color=GREEN),
            Line(field="student_wait_s", label="waiting", color=BLUE),
            Line(field="transfer_s", label="transfer", color=PURPLE),
            Line(field="data_s", label="data", color=ORANGE),
            Line(field="optimizer_s", label="optimizer", color=GRAY),
            Line(field="checkpoint_s", label="checkpoint", color=INK),
        ),
        unit="s",
    ),
    Panel(
        title="Throughput",
        lines=(Line(field="answer_tokens_per_s", label="student answer tokens / s", color=GREEN),),
        unit="tokens / s",
    ),
    Panel(
        title="Learning rate",
        lines=(Line(field="lr", label="learning rate", color=INK),),
        is_smoothed=False,
    ),
    Panel(
        title="Gradient at the student's question features",
        lines=(
            Line(field="grad_norm_z_qs_boundary", label="from boundary positions", color=ORANGE),
            Line(field="grad_norm_z_qs_rest", label="from other positions", color=BLUE),
        ),
        is_smoothed=False,
    ),
    Panel(title="Gradient norm", lines=(Line(field="grad_norm", label="gradient norm", color=INK),)),
)


def loss_figure(metrics: Metrics) -> Figure:
    """Draw each loss term of a run on its own, boundary and other positions apart."""
    return _figure(metrics, LOSS_PANELS)


def time_figure(metrics: Metrics) -> Figure:
    """Draw step seconds with both sides' waits, throughput, learning rate and gradient norm."""
    return _figure([_with_throughput(step) for step in metrics], TIME_PANELS)


def _with_throughput(step: dict[str, MetricValue]) -> dict[str, MetricValue]:
    tokens, step_s = step["answer_tokens_student"], step["step_s"]
    return step | {"answer_tokens_per_s": tokens / step_s if tokens is not None and step_s else None}


def _figure(metrics: Metrics, panels: Sequence[Panel]) -> Figure:
    shown = [panel for panel in panels if any(_points(metrics, line.field)[0] for line in panel.lines)]
    with mpl.rc_context(STYLE):
        figure, grid = panel_grid(len(shown))
        for axes, panel in zip(grid, shown, strict=True):
            draw_panel(axes, panel, metrics)
    return figure


def draw_panel(axes: Axes, panel: Panel, metrics: Metrics) -> None:
    """Draw those of a panel's lines that the metrics have."""
    drawn = [line for line in panel.lines if _points(metrics, line.field)[0]]
    for line in drawn:
        steps, values = _points(metrics, line.field)
        if panel.is_smoothed and len(values) > MAX_UNSMOOTHED_STEPS:
            axes.plot(steps, values, color=line.color, linewidth=0.7, alpha=0.25)
            values = _moving_mean(values, window=len(values) // 30)
        axes.plot(
            steps,
            values,
            color=line.color,
            linewidth=1.5,
            label=line.label,
            marker="o",
            markersize=_dot(values),
        )
    axes.set_title(panel.title, pad=24)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0.0)
    if len(drawn) > 1:
        legend_above(axes, columns=len(drawn))


def _points(metrics: Metrics, field: str) -> tuple[list[float], list[float]]:
    # Runs of an earlier version lack fields.
    pairs = [(step["step"], step[field]) for step in metrics if step.get(field) is not None]
    return [float(x or 0) for x, _ in pairs], [float(y) for _, y in pairs if y is not None]


def _dot(values: Sequence[float]) -> float:
    """Return a marker size: a run of a few steps would otherwise be an invisible line."""
    return 3.0 if len(values) <= 12 else 0.0


def _moving_mean(values: Sequence[float], *, window: int) -> list[float]:
    """Return the mean of each value and up to `window` values on either side of it."""
    return [fmean(values[max(0, i - window) : i + window + 1]) for i in range(len(values))]
