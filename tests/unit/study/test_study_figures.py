import sys
from pathlib import Path

import numpy as np
import pytest

from genrecal_mcore.study.study_figures import MissingFigure, StudyFigure, paired_differences, study_figures
from genrecal_mcore.study.study_files import read_study
from tests.helpers.study_folder import make_study


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyFigure]:
    found = list(study_figures(read_study(make_study(tmp_path_factory.mktemp("study")))))
    assert not [figure.title for figure in found if isinstance(figure, MissingFigure)]
    return {figure.name: figure for figure in found if isinstance(figure, StudyFigure)}


def titles(figure: StudyFigure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.figure.axes if axes.get_title(loc="left")]


def test_every_figure_is_drawn_of_the_places_that_have_its_data(figures: dict[str, StudyFigure]) -> None:
    places = ("one_shapes", "other_shapes")
    cosines = [f"cosines_{pooling}_{place}" for place in places for pooling in ("boundary", "all")]
    features = [f"features_{place}" for place in places]
    assert list(figures) == ["gains", "heat_map", *features, *cosines, "losses", "courses"]


def test_gains_of_arms_that_teach_are_paired_by_seed_where_the_reference_was_run(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, diagnosed=False, with_courses=False))
    differences = paired_differences(study, ("one", "shapes"))
    assert differences == {"genrecal": pytest.approx([4.0, 6.0]), "plain": pytest.approx([1.0, -3.0])}
    assert paired_differences(study, ("other", "shapes")) == {}


def test_the_heat_map_has_the_arm_that_was_run_on_several_pairs(figures: dict[str, StudyFigure]) -> None:
    assert titles(figures["heat_map"]) == ["genrecal, shapes"]
    axes = figures["heat_map"].figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[56.0], [60.5]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["big", "bigger"]


def test_cosines_stand_side_by_side_in_the_grids_order_as_means_over_seeds(
    figures: dict[str, StudyFigure],
) -> None:
    assert titles(figures["cosines_boundary_one_shapes"]) == [
        "plain (2 runs)\ndiagonal 0.21, others 0.10",
        "genrecal (2 runs)\ndiagonal 0.81, others 0.10",
    ]


def test_features_are_those_of_the_first_seed_at_both_ends(figures: dict[str, StudyFigure]) -> None:
    assert titles(figures["features_one_shapes"]) == [
        f"{arm}, step {step}" for arm in ("plain", "genrecal") for step in (0, 4)
    ]


def test_losses_are_those_of_the_diagnosed_stage_beside_the_diagnosis(
    figures: dict[str, StudyFigure],
) -> None:
    assert titles(figures["losses"]) == [
        "plain: one, shapes",
        "genrecal: one, shapes",
        "genrecal: other, shapes",
    ]
    lines = {line.get_label(): line for line in figures["losses"].figure.axes[0].lines}
    np.testing.assert_allclose(lines["Recalib(q_s, a_l)"].get_ydata(), [2.0, 1.0, 0.0, -1.0])
    np.testing.assert_allclose(lines["SmallVLM: perplexity 2.46"].get_ydata(), 0.9)


def test_courses_run_through_all_stages_of_an_arm(figures: dict[str, StudyFigure]) -> None:
    assert titles(figures["courses"]) == ["one, shapes", "other, shapes"]
    lines = {line.get_label(): line for line in figures["courses"].figure.axes[0].lines}
    np.testing.assert_allclose(lines["sft"].get_xdata(), [1.5, 2.0, 2.5, 3.0])
    np.testing.assert_allclose(lines["genrecal"].get_xdata(), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    np.testing.assert_allclose(lines["genrecal"].get_ydata(), [46.0, 56.0] * 3)


def test_without_scikit_learn_only_its_figure_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    found = study_figures(read_study(make_study(tmp_path)))
    (missing,) = [figure for figure in found if isinstance(figure, MissingFigure)]
    assert "Figure 6" in missing.title and "pip install 'genrecal-mcore[study]'" in missing.reason
