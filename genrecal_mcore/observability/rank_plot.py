"""Draws what each rank's time went into, teacher and student alike, from the ranks' status files."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from genrecal_mcore.observability.plot_style import (
    BLUE,
    COLUMNS,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PANEL_WIDTH_IN,
    PURPLE,
    STYLE,
    legend_above,
)
from genrecal_mcore.status import Activity, StatusRecord

COLORS = {
    Activity.COMPUTE: GREEN,
    Activity.WAIT: BLUE,
    Activity.TRANSFER: PURPLE,
    Activity.DATA: ORANGE,
    Activity.OPTIMIZER: GRAY,
    Activity.CHECKPOINT: INK,
    Activity.OTHER: PALE,
}
BAR_HEIGHT_IN, FRAME_HEIGHT_IN = 0.22, 1.0


def ranks_figure(records: Sequence[StatusRecord]) -> Figure:
    """Draw one bar a rank: its seconds since its newest start, by activity."""
    labels = [f"{record.rank}  {record.role}" for record in records]
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(
            figsize=(PANEL_WIDTH_IN * COLUMNS, FRAME_HEIGHT_IN + BAR_HEIGHT_IN * len(records)),
            layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
        )
        axes = figure.subplots()
        ends = [0.0] * len(records)
        for activity, color in COLORS.items():
            seconds = [record.seconds.get(activity, 0.0) for record in records]
            axes.barh(labels, seconds, left=ends, height=0.7, color=color, label=activity.value)
            ends = [end + s for end, s in zip(ends, seconds, strict=True)]
        axes.set_title("What each rank's seconds went into", pad=24)
        axes.set_xlabel("s since the run's newest start")
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8))
        legend_above(axes, columns=len(COLORS))
    return figure
