"""Figure 5: what each teacher makes of each student."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genrecal_mcore.observability.plot_style import STYLE, panel_grid

Cells = Mapping[tuple[str, str], Sequence[float]]
"""Accuracies in percent, one a seed, by (teacher, student)."""
ROW_HEIGHT_IN, FRAME_HEIGHT_IN = 0.7, 1.4


def heat_map_figure(maps: Mapping[str, Cells]) -> Figure:
    """Draw maps by title, each with a row a teacher and a column a student.

    A cell shows the mean, and where there are several seeds their standard deviation. Pairs without a run
    stay blank.
    """
    most_teachers = max(len({teacher for teacher, _ in cells}) for cells in maps.values())
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure, grid = panel_grid(len(maps), height_in=FRAME_HEIGHT_IN + ROW_HEIGHT_IN * most_teachers)
        for axes, (title, cells) in zip(grid, maps.items(), strict=True):
            _draw_cells(axes, cells)
            axes.set_title(title, pad=8)
    return figure


def _draw_cells(axes: Axes, cells: Cells) -> None:
    teachers = list(dict.fromkeys(teacher for teacher, _ in cells))
    students = list(dict.fromkeys(student for _, student in cells))
    means = np.full((len(teachers), len(students)), np.nan)
    for (teacher, student), values in cells.items():
        means[teachers.index(teacher), students.index(student)] = fmean(values)
    axes.imshow(means, cmap="Blues", aspect="auto")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for (teacher, student), values in cells.items():
        row, column = teachers.index(teacher), students.index(student)
        color = "white" if means[row, column] > middle else "black"
        axes.text(column, row, _text(values), ha="center", va="center", color=color)
    axes.set_xticks(range(len(students)), labels=students)
    axes.set_yticks(range(len(teachers)), labels=teachers)
    axes.set_xlabel("student")
    axes.set_ylabel("teacher")


def _text(values: Sequence[float]) -> str:
    spread = f"\n+- {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"
