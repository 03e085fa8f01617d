"""What each arm of a study gains over its reference arm, with errors over seeds."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genrecal_mcore.observability.plot_style import GRAY, GREEN, INK, ORANGE, STYLE, panel_grid

ROW_HEIGHT_IN, FRAME_HEIGHT_IN = 0.27, 1.1
NUM_ERRORS = 2
"""Standard errors that a bar spans on each side, beyond which a difference counts as shown."""


def gain_figure(panels: Mapping[str, Mapping[str, Sequence[float]]], *, reference: str) -> Figure:
    """Draw paired differences to the reference arm in points of accuracy, one a seed, by panel and arm.

    Small dots are seeds, the large one their mean, the bar two standard errors of it to each side; an arm
    with one seed has none. Arms whose bar does not touch zero are coloured.
    """
    num_rows = max(len(arms) for arms in panels.values())
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure, grid = panel_grid(len(panels), height_in=FRAME_HEIGHT_IN + ROW_HEIGHT_IN * num_rows)
        for axes, (title, arms) in zip(grid, panels.items(), strict=True):
            _draw_arms(axes, arms)
            axes.set_title(title, pad=8)
            axes.set_xlabel(f"points over {reference}")
    return figure


def _draw_arms(axes: Axes, arms: Mapping[str, Sequence[float]]) -> None:
    axes.axvline(0.0, color=INK, linewidth=0.9)
    for row, differences in enumerate(arms.values()):
        mean, error = fmean(differences), _error(differences)
        color = GRAY if error is None or abs(mean) <= error else GREEN if mean > 0 else ORANGE
        axes.plot(differences, [row] * len(differences), "o", color=color, markersize=2.5, alpha=0.5)
        axes.errorbar(mean, row, xerr=error, color=color, marker="o", markersize=5, capsize=3, linewidth=1.5)
    labels = [f"{arm} ({len(differences)})" for arm, differences in arms.items()]
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _error(differences: Sequence[float]) -> float | None:
    if len(differences) < 2:
        return None
    return NUM_ERRORS * stdev(differences) / sqrt(len(differences))
