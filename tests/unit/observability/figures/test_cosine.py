import numpy as np
import pytest

from genrecal_mcore.observability.figures import cosine_figure, mean_matrix


def test_matrices_are_drawn_as_they_are_on_one_scale() -> None:
    first = [[0.9, -0.3, 0.1], [0.2, 0.7, 0.0], [0.1, 0.2, 0.8]]
    second = [[0.4, 0.5, 0.4], [0.6, 0.5, 0.4], [0.3, 0.4, 0.6]]
    figure = cosine_figure({"with": first, "without": second})
    images = [axes.images[0] for axes in figure.axes if axes.images]
    for image, matrix in zip(images, (first, second), strict=True):
        np.testing.assert_allclose(np.asarray(image.get_array()), matrix)
        assert image.get_clim() == (-0.3, 1.0)


def test_a_title_says_the_means_of_the_diagonal_and_of_the_others() -> None:
    figure = cosine_figure({"with": [[0.9, 0.1], [0.3, 0.7]]})
    assert figure.axes[0].get_title(loc="left") == "with\ndiagonal 0.80, others 0.20"


def test_the_mean_of_matrices_is_taken_cell_by_cell() -> None:
    mean = mean_matrix([[[1.0, 2.0], [3.0, 4.0]], [[3.0, 2.0], [1.0, 0.0]]])
    assert mean == [[2.0, pytest.approx(2.0)], [2.0, 2.0]]
