"""Figure 10: accuracy along the stages, for arms whose data lack a domain or are whole."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import fmean, stdev

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genrecal_mcore.observability.plot_style import CYCLE, STYLE, legend_above, panel_grid

Course = Mapping[float, Sequence[float]]
"""Accuracies in percent, one a seed, by progress: 1.4 is two fifths into stage 2, 3.0 the end of stage 3."""
HEIGHT_IN = 3.4
LEGEND_COLUMNS, LEGEND_ROW_PT = 2, 12


def domains_figure(panels: Mapping[str, Mapping[str, Course]]) -> Figure:
    """Draw the course of each arm by panel, the mean of its seeds and a band of their standard deviation."""
    with mpl.rc_context(STYLE):
        figure, grid = panel_grid(len(panels), height_in=HEIGHT_IN)
        for axes, (title, courses) in zip(grid, panels.items(), strict=True):
            _draw_courses(axes, courses)
            axes.set_title(title, pad=12 + LEGEND_ROW_PT * -(-len(courses) // LEGEND_COLUMNS))
    return figure


def _draw_courses(axes: Axes, courses: Mapping[str, Course]) -> None:
    for color, (arm, course) in zip(cycle(CYCLE), courses.items(), strict=False):
        progress = sorted(course)
        means = [fmean(course[at]) for at in progress]
        spreads = [stdev(course[at]) if len(course[at]) > 1 else 0.0 for at in progress]
        axes.plot(progress, means, color=color, linewidth=1.5, marker="o", markersize=3, label=arm)
        lows, highs = zip(*((m - s, m + s) for m, s in zip(means, spreads, strict=True)), strict=True)
        axes.fill_between(progress, lows, highs, color=color, alpha=0.12, linewidth=0)
    stages = range(1, 1 + max(int(-(-at // 1)) for course in courses.values() for at in course))
    for end in stages[:-1]:
        axes.axvline(end, color="#c9cdd3", linewidth=0.9, linestyle=":")
    axes.set_xticks([stage - 0.5 for stage in stages], labels=[f"stage {stage}" for stage in stages])
    axes.set_ylabel("accuracy, %")
    legend_above(axes, columns=LEGEND_COLUMNS)
