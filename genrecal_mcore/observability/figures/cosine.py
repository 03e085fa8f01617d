"""Figure 7: cosine similarity of what both paths leave in the Recalibrator, sample by sample."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genrecal_mcore.observability.plot_style import STYLE, panel_grid

Matrix = Sequence[Sequence[float]]
HEIGHT_IN = 4.0


def cosine_figure(matrices: Mapping[str, Matrix]) -> Figure:
    """Draw matrices `[g][g]` by title on one scale of colours.

    Row i is sample i on the student's path, column j sample j on the teacher's.
    """
    found = {title: np.asarray(matrix, dtype=float) for title, matrix in matrices.items()}
    lowest = min(0.0, *(matrix.min() for matrix in found.values()))
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure, grid = panel_grid(len(found), height_in=HEIGHT_IN)
        for axes, (title, matrix) in zip(grid, found.items(), strict=True):
            _draw_matrix(axes, title, matrix)
            image = axes.imshow(matrix, cmap="viridis", vmin=lowest, vmax=1.0)
        figure.colorbar(image, ax=grid, label="cosine", shrink=0.7)
    return figure


def mean_matrix(matrices: Sequence[Matrix]) -> Matrix:
    """Return the mean of several matrices, e.g. of runs with different seeds."""
    return np.mean(np.asarray(matrices, dtype=float), axis=0).tolist()


def _draw_matrix(axes: Axes, title: str, matrix: np.ndarray) -> None:
    is_own = np.eye(len(matrix), dtype=bool)
    own, others = matrix[is_own].mean(), matrix[~is_own].mean()
    axes.set_title(f"{title}\ndiagonal {own:.2f}, others {others:.2f}", pad=8)
    axes.set_xlabel("sample, teacher's path")
    axes.set_ylabel("sample, student's path")
    axes.set_xticks(range(len(matrix)), labels=[str(i + 1) for i in range(len(matrix))])
    axes.set_yticks(range(len(matrix)), labels=[str(i + 1) for i in range(len(matrix))])
