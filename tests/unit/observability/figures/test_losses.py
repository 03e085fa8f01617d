import math

import numpy as np
import pytest

from genrecal_mcore.observability import METRIC_FIELDS
from genrecal_mcore.observability.figures import RunLosses, losses_and_perplexities_figure

OWN_HEADS = {
    "student": {"ce": 0.9, "perplexity": math.exp(0.9), "num_tokens": 7},
    "teacher": {"ce": 0.2, "perplexity": math.exp(0.2), "num_tokens": 5},
}


def run(*, terms: tuple[str, ...], num_steps: int = 4) -> RunLosses:
    metrics = [
        dict.fromkeys(METRIC_FIELDS) | {"step": step} | dict.fromkeys(terms, 3.0 / (step + 1))
        for step in range(num_steps)
    ]
    return RunLosses(metrics=metrics, diagnostics={"own_heads": OWN_HEADS})


def test_a_run_of_stage_1_shows_both_paths_and_both_models_own_cross_entropies() -> None:
    figure = losses_and_perplexities_figure({"a pair": run(terms=("ce_recal", "ce_reg"))})
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}
    expected = [3.0, 1.5, 1.0, 0.75]
    np.testing.assert_allclose(lines["Recalib(q_s, a_l)"], expected)
    np.testing.assert_allclose(lines["Recalib(q_l, a_l)"], expected)
    np.testing.assert_allclose(lines["SmallVLM: perplexity 2.46"], 0.9)
    np.testing.assert_allclose(lines["LargeVLM: perplexity 1.22"], 0.2)


def test_the_second_axis_says_the_perplexity_of_a_cross_entropy() -> None:
    figure = losses_and_perplexities_figure({"a pair": run(terms=("ce_recal",))})
    figure.draw_without_rendering()
    axes = figure.axes[0]
    (second,) = axes.child_axes
    assert second.get_ylim() == pytest.approx(tuple(math.exp(ce) for ce in axes.get_ylim()))


def test_a_path_that_a_run_does_not_have_is_not_drawn() -> None:
    figure = losses_and_perplexities_figure(
        {"stage 1": run(terms=("ce_recal", "ce_reg")), "stage 2": run(terms=("ce_recal",))}
    )
    assert [len(axes.lines) for axes in figure.axes] == [4, 3]
