import pytest

from genrecal_mcore.planning.split import balanced_split


@pytest.mark.parametrize(
    ("num_layers", "pp", "images", "split"),
    [
        (80, 1, 30.0, (80,)),
        (80, 4, 0.0, (20, 20, 20, 20)),
        (80, 4, 24.0, (2, 26, 26, 26)),
        (80, 2, 20.0, (30, 50)),
        (10, 4, 99.0, (1, 3, 3, 3)),
        (11, 4, 2.5, (1, 3, 3, 4)),
    ],
)
def test_the_first_stage_has_fewer_layers_by_the_time_of_its_images(
    num_layers: int, pp: int, images: float, split: tuple[int, ...]
) -> None:
    assert balanced_split(num_layers=num_layers, pp=pp, images=images) == split


@pytest.mark.parametrize("images", [0.0, 0.4, 3.0, 7.7, 50.0])
@pytest.mark.parametrize("pp", [2, 3, 5])
def test_no_other_first_stage_is_faster(pp: int, images: float) -> None:
    def slowest(first: int) -> float:
        return max(images + first, -(-(28 - first) // (pp - 1)))

    split = balanced_split(num_layers=28, pp=pp, images=images)
    assert sum(split) == 28 and len(split) == pp and min(split) >= 1
    assert slowest(split[0]) == min(slowest(first) for first in range(1, 28 - pp + 2))
