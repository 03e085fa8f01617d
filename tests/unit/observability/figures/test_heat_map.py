import numpy as np

from genrecal_mcore.observability.figures import heat_map_figure


def test_rows_are_teachers_columns_students_and_a_cell_is_the_mean_of_its_seeds() -> None:
    cells = {("T1", "s1"): [60.0, 62.0], ("T1", "s2"): [70.0], ("T2", "s1"): [50.0, 53.0]}
    axes = heat_map_figure({"genrecal": cells}).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["T1", "T2"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["s1", "s2"]
    drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(drawn, [[61.0, 70.0], [51.5, np.nan]])
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "61.0\n+- 1.4", (1, 0): "70.0", (0, 1): "51.5\n+- 2.1"}
