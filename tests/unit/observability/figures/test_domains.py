import numpy as np

from genrecal_mcore.observability.figures import domains_figure


def test_a_course_runs_through_the_stages_with_the_spread_of_its_seeds() -> None:
    courses = {
        "all": {1.0: [50.0], 2.0: [60.0, 64.0], 1.2: [52.0, 52.0]},
        "without colour": {1.0: [50.0], 1.2: [51.0], 2.0: [55.0]},
    }
    axes = domains_figure({"shapes": courses}).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["all"].get_xdata(), [1.0, 1.2, 2.0])
    np.testing.assert_allclose(lines["all"].get_ydata(), [50.0, 52.0, 62.0])
    np.testing.assert_allclose(lines["without colour"].get_ydata(), [50.0, 51.0, 55.0])
    band = axes.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [50.0, 62.0 + 8**0.5])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["stage 1", "stage 2"]
