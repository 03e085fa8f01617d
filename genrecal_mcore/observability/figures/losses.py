"""Figure 9: cross entropy of both paths through the Recalibrator, beside both models' own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from genrecal_mcore.observability.plot_style import BLUE, GRAY, INK, ORANGE, STYLE, legend_above, panel_grid
from genrecal_mcore.observability.plots import Line, Metrics, Panel, draw_panel

LINES = (
    Line(field="ce_recal", label="Recalib(q_s, a_l)", color=BLUE),
    Line(field="ce_reg", label="Recalib(q_l, a_l)", color=ORANGE),
)
OWN_HEADS = {"student": ("SmallVLM", GRAY), "teacher": ("LargeVLM", INK)}
HEIGHT_IN = 3.2


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLosses:
    """A run of stage 1 or 2, and what its diagnosis says of both models without a Recalibrator."""

    metrics: Metrics
    diagnostics: Mapping[str, Any]
    """Content of `diagnostics.json`."""


def losses_and_perplexities_figure(runs: Mapping[str, RunLosses]) -> Figure:
    """Draw the cross entropies of runs by title, both models' own as level lines with their perplexity.

    The lines are of training samples, the levels of those that the run was diagnosed on.
    """
    with mpl.rc_context(STYLE):
        figure, grid = panel_grid(len(runs), height_in=HEIGHT_IN)
        for axes, (title, run) in zip(grid, runs.items(), strict=True):
            _draw_run(axes, title, run)
    return figure


def _draw_run(axes: Axes, title: str, run: RunLosses) -> None:
    draw_panel(axes, Panel(title=title, lines=LINES, unit="cross entropy, nats"), run.metrics)
    for model, (label, color) in OWN_HEADS.items():
        found = run.diagnostics["own_heads"][model]
        label = f"{label}: perplexity {found['perplexity']:.2f}"
        axes.axhline(found["ce"], color=color, linewidth=1.2, linestyle="--", label=label)
    axes.set_title(title, pad=36)
    _add_perplexity_axis(axes)
    legend_above(axes, columns=2)


def _add_perplexity_axis(axes: Axes) -> None:
    axis = axes.secondary_yaxis("right", functions=(_perplexity, _cross_entropy))
    axis.set_ylabel("perplexity")
    axis.spines["right"].set_visible(False)


def _perplexity(cross_entropy: ArrayLike) -> ArrayLike:
    return np.exp(cross_entropy)


def _cross_entropy(perplexity: ArrayLike) -> ArrayLike:
    # matplotlib asks for that of zero too.
    return np.log(np.maximum(perplexity, np.finfo(float).tiny))
