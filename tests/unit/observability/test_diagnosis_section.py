import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from genrecal_mcore.observability import METRIC_FIELDS, diagnosed_steps
from genrecal_mcore.observability.diagnosis_section import diagnosis_section
from tests.helpers.diagnosis import make_diagnosis

METRICS = [dict.fromkeys(METRIC_FIELDS) | {"step": step, "ce_recal": 1.0} for step in range(3)]


def section_of(run_dir: Path) -> tuple[str, dict[str, Figure]]:
    figures: dict[str, Figure] = {}

    def drawn(kind: str, figure: Figure) -> str:
        figures[kind] = figure
        return f"[{kind}]"

    return "\n".join(diagnosis_section(run_dir, METRICS, drawn)), figures


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_a_diagnosed_run_shows_losses_cosines_and_features_at_both_ends(tmp_path: Path) -> None:
    for step, is_newest in ((3, False), (0, False), (9, True)):
        make_diagnosis(tmp_path, step=step, is_newest=is_newest)
    text, figures = section_of(tmp_path)
    assert [kind for kind in figures if f"[{kind}]" in text] == ["perplexities", "cosines", "features"]
    assert titles(figures["features"]) == ["Features at step 0", "Features at step 9"]
    boundary, everywhere = titles(figures["cosines"])
    assert boundary == "Pooled over the boundary\ndiagonal 0.80, others 0.10"
    assert everywhere == "Pooled over all positions\ndiagonal 0.60, others 0.50"
    levels = [np.asarray(line.get_ydata())[0] for line in figures["perplexities"].axes[0].lines]
    assert levels == [1.0, 0.9, 0.2]
    assert "step 9" in text and "--step 0" not in text


def test_a_run_with_one_diagnosis_says_how_to_get_the_other_end(tmp_path: Path) -> None:
    make_diagnosis(tmp_path, step=9)
    text, figures = section_of(tmp_path)
    assert titles(figures["features"]) == ["Features at step 9"]
    assert "--step 0" in text


def test_without_scikit_learn_the_rest_is_shown_and_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    make_diagnosis(tmp_path, step=9)
    text, figures = section_of(tmp_path)
    assert list(figures) == ["perplexities", "cosines"]
    assert "t-SNE needs scikit-learn" in text


def test_a_run_that_was_not_diagnosed_has_no_section(tmp_path: Path) -> None:
    assert section_of(tmp_path) == ("", {})
    assert diagnosed_steps(tmp_path) == {}
