"""Figure 6: where the features of both models lie before and after the Recalibrator's body."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genrecal_mcore.observability.plot_style import BLUE, GRAY, GREEN, ORANGE, STYLE, legend_above, panel_grid

KINDS = {
    "student_before": ("student", BLUE, "o"),
    "teacher_before": ("teacher, through Rec-proj-pre", GRAY, "s"),
    "student_after": ("student, recalibrated", GREEN, "o"),
    "teacher_after": ("teacher, recalibrated", ORANGE, "s"),
}
"""Names in `features.safetensors`: label, colour and marker of each."""
HEIGHT_IN = 4.2
MAX_PERPLEXITY = 30.0


def tsne_layout(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return places `[n, 2]` for features `[n, h]` by kind, all kinds laid out together; deterministic.

    Raises `RuntimeError` saying what to install when scikit-learn is not there.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise RuntimeError(
            f"t-SNE needs scikit-learn ({error}); install it with: pip install 'genrecal-mcore[study]'"
        ) from None
    rows = np.concatenate([features[kind] for kind in KINDS])
    perplexity = min(MAX_PERPLEXITY, (len(rows) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)
    ends = np.cumsum([len(features[kind]) for kind in KINDS])
    return dict(zip(KINDS, np.split(places, ends[:-1]), strict=True))


def tsne_figure(layouts: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw layouts of `tsne_layout` by title, e.g. that of a run's beginning beside that of its end."""
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure, grid = panel_grid(len(layouts), height_in=HEIGHT_IN)
        for axes, (title, layout) in zip(grid, layouts.items(), strict=True):
            _draw_layout(axes, title, layout)
    return figure


def _draw_layout(axes: Axes, title: str, layout: Mapping[str, np.ndarray]) -> None:
    for kind, (label, color, marker) in KINDS.items():
        x, y = layout[kind].T
        axes.scatter(x, y, s=14, color=color, marker=marker, alpha=0.75, linewidths=0, label=label)
    axes.set_title(title, pad=36)
    axes.set_xticks([])
    axes.set_yticks([])
    legend_above(axes, columns=2)
