"""The paper's figures and a study's, one a file: plain data in, a matplotlib figure out.

They read no files and compute no statistics but means and errors of what they are given. Every training rank
imports `observability`, and none of them draws: import this package where something is drawn.
"""

from genrecal_mcore.observability.figures.cosine import cosine_figure, mean_matrix
from genrecal_mcore.observability.figures.domains import domains_figure
from genrecal_mcore.observability.figures.gain import gain_figure
from genrecal_mcore.observability.figures.heat_map import heat_map_figure
from genrecal_mcore.observability.figures.losses import RunLosses, losses_and_perplexities_figure
from genrecal_mcore.observability.figures.tsne import tsne_figure, tsne_layout

__all__ = [
    "RunLosses",
    "cosine_figure",
    "domains_figure",
    "gain_figure",
    "heat_map_figure",
    "losses_and_perplexities_figure",
    "mean_matrix",
    "tsne_figure",
    "tsne_layout",
]
