import sys

import numpy as np
import pytest

from genrecal_mcore.observability.figures import tsne_figure, tsne_layout
from genrecal_mcore.observability.figures.tsne import KINDS


def features(seed: int, *, num_samples: int = 7) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    near = generator.normal(size=(num_samples, 5)).astype(np.float32)
    far = generator.normal(size=(num_samples, 5)).astype(np.float32) + 50.0
    return dict(zip(KINDS, (near, far, near + 0.01, far + 0.01), strict=True))


def test_near_features_lie_nearer_than_far_ones_and_every_time_at_the_same_place() -> None:
    layout, again = tsne_layout(features(0)), tsne_layout(features(0))
    assert {kind: places.shape for kind, places in layout.items()} == dict.fromkeys(KINDS, (7, 2))
    for kind, places in layout.items():
        np.testing.assert_array_equal(places, again[kind])
    middle = {kind: places.mean(0) for kind, places in layout.items()}
    near = np.linalg.norm(middle["student_before"] - middle["student_after"])
    far = np.linalg.norm(middle["student_before"] - middle["teacher_after"])
    assert near < far / 2


def test_each_kind_of_features_is_drawn_where_it_was_laid_out() -> None:
    generator = np.random.default_rng(1)
    layouts = {
        title: {kind: generator.normal(size=(3, 2)) for kind in KINDS} for title in ("step 0", "step 9")
    }
    figure = tsne_figure(layouts)
    for axes, (title, layout) in zip(figure.axes, layouts.items(), strict=True):
        assert axes.get_title(loc="left") == title
        for points, (kind, (label, *_)) in zip(axes.collections, KINDS.items(), strict=True):
            assert points.get_label() == label
            np.testing.assert_allclose(np.asarray(points.get_offsets()), layout[kind])


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(RuntimeError, match=r"pip install 'genrecal-mcore\[study\]'"):
        tsne_layout(features(0))
