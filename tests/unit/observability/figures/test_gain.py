from statistics import stdev

import numpy as np
import pytest

from genrecal_mcore.observability.figures import gain_figure
from genrecal_mcore.observability.plot_style import GRAY, GREEN, ORANGE

ARMS = {"better": [2.0, 3.0, 4.0], "worse": [-2.0, -3.0, -4.0], "unclear": [-1.0, 0.5, 1.0], "alone": [9.0]}


def test_an_arm_is_its_mean_its_seeds_and_two_standard_errors() -> None:
    axes = gain_figure({"short answers": ARMS}, reference="sft").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["better (3)", "worse (3)", "unclear (3)", "alone (1)"]
    with_bars = [drawn for drawn in axes.containers if drawn.has_xerr]
    assert len(with_bars) == 3
    for drawn, differences in zip(with_bars, ARMS.values(), strict=False):
        (start, _), (end, _) = drawn.lines[2][0].get_segments()[0]
        error = 2 * stdev(differences) / 3**0.5
        assert start == pytest.approx(np.mean(differences) - error)
        assert end == pytest.approx(np.mean(differences) + error)
    seeds = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_alpha() == 0.5]
    assert seeds == list(ARMS.values())


def test_only_what_lies_beyond_two_standard_errors_is_coloured() -> None:
    axes = gain_figure({"short answers": ARMS}, reference="sft").axes[0]
    colors = [drawn.lines[0].get_color() for drawn in axes.containers]
    assert colors == [GREEN, ORANGE, GRAY, GRAY]
