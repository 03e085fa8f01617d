"""How every plot of a report looks: colours, fonts, and the grid of small charts."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

BLUE, ORANGE, GREEN, GRAY, INK = "#2f6690", "#c96f1d", "#4b8562", "#9aa0a8", "#2b2f36"
PURPLE, PALE = "#7a5195", "#dfe2e6"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, INK, GRAY)
"""Of lines whose number is not known beforehand."""
PANEL_WIDTH_IN, PANEL_HEIGHT_IN, COLUMNS = 4.7, 2.75, 2
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": "#c9cdd3",
    "axes.labelcolor": "#5b616b",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "xtick.color": "#5b616b",
    "ytick.color": "#5b616b",
    "ytick.left": False,
    "xtick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
}


def panel_grid(num_panels: int, *, height_in: float = PANEL_HEIGHT_IN) -> tuple[Figure, list[Axes]]:
    """Return a figure of small charts, two in a row, each `height_in` high, and the axes of each."""
    num_rows = max(1, -(-num_panels // COLUMNS))
    figure = Figure(
        figsize=(PANEL_WIDTH_IN * COLUMNS, height_in * num_rows),
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
    )
    panels = list(figure.subplots(num_rows, COLUMNS, squeeze=False).flat)
    for axes in panels[num_panels:]:
        axes.set_visible(False)
    return figure, panels[:num_panels]


def legend_above(axes: Axes, *, columns: int) -> None:
    """Put the legend between title and axes: inside, it would lie on a line sooner or later."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, handlelength=1.2, borderpad=0.2)
