"""Figure 5: what each teacher makes of each student."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from genrecal_mcore.observability.plot_style import STYLE

CELL_WIDTH_IN, CELL_HEIGHT_IN, FRAME_IN = 1.6, 0.8, 1.4


def heat_map_figure(cells: Mapping[tuple[str, str], Sequence[float]], *, title: str) -> Figure:
    """Draw accuracies in percent, one a seed, by (teacher, student): rows are teachers, columns students.

    A cell shows the mean, and where there are several seeds their standard deviation. Pairs without a run
    stay blank.
    """
    teachers = list(dict.fromkeys(teacher for teacher, _ in cells))
    students = list(dict.fromkeys(student for _, student in cells))
    means = np.full((len(teachers), len(students)), np.nan)
    for (teacher, student), values in cells.items():
        means[teachers.index(teacher), students.index(student)] = fmean(values)
    size = (FRAME_IN * 2 + CELL_WIDTH_IN * len(students), FRAME_IN + CELL_HEIGHT_IN * len(teachers))
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
        axes = figure.subplots()
        image = axes.imshow(means, cmap="Blues", aspect="auto")
        middle = (np.nanmin(means) + np.nanmax(means)) / 2
        for (teacher, student), values in cells.items():
            row, column = teachers.index(teacher), students.index(student)
            color = "white" if means[row, column] > middle else "black"
            axes.text(column, row, _text(values), ha="center", va="center", color=color)
        axes.set_xticks(range(len(students)), labels=students)
        axes.set_yticks(range(len(teachers)), labels=teachers)
        axes.set_xlabel("student")
        axes.set_ylabel("teacher")
        axes.set_title(title, pad=8)
        figure.colorbar(image, ax=axes, label="accuracy, %")
    return figure


def _text(values: Sequence[float]) -> str:
    spread = f"\n+- {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}"
