from functools import cache

import numpy as np
import pytest

from genrecal_mcore.data.mixture import BLOCK_SIZE, Rounds, SourceShare, quotas_of
from genrecal_mcore.data.order import BatchShape, SampleOrder, units_of_step

SIZES, WEIGHTS = (50, 300, 70_000), (0.25, 0.6, 0.15)
"""A block draws the first source hundreds of times over, and never the whole of the last."""


def shares_of(sizes: tuple[int, ...], weights: tuple[float, ...]) -> list[SourceShare]:
    firsts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        SourceShare(
            name=f"source {first}", samples=np.arange(first, first + size, dtype=np.int32), weight=weight
        )
        for first, size, weight in zip(firsts, sizes, weights, strict=True)
    ]


def is_of(share: SourceShare, samples: np.ndarray) -> np.ndarray:
    return (samples >= share.samples[0]) & (samples <= share.samples[-1])


SHARES = shares_of(SIZES, WEIGHTS)


def order_of(seed: int = 3, window: int = 1) -> SampleOrder:
    tokens = np.random.default_rng(0).integers(4, 900, sum(SIZES))
    return SampleOrder(tokens, seed, "digest {}", window, SHARES)


@cache
def drawn(num_blocks: int) -> np.ndarray:
    rounds = Rounds(SHARES, seed=3, digest="digest {}")
    return np.concatenate([rounds.draw(number) for number in range(num_blocks)])


def test_each_block_holds_the_shares_that_the_weights_ask_for() -> None:
    for block in drawn(3).reshape(3, BLOCK_SIZE):
        for share in SHARES:
            got = np.count_nonzero(is_of(share, block)) / BLOCK_SIZE
            assert abs(got - share.weight) < 1 / BLOCK_SIZE


def test_shares_are_kept_also_within_a_block() -> None:
    start = drawn(1)[:4096]
    for share in SHARES:
        got = np.count_nonzero(is_of(share, start)) / 4096
        assert abs(got - share.weight) < 0.03  # five standard deviations of a fair draw


@pytest.mark.parametrize("share", SHARES, ids=lambda share: share.name)
def test_every_source_is_drawn_in_whole_permutations_that_differ(share: SourceShare) -> None:
    samples = drawn(10)
    own, size = samples[is_of(share, samples)], len(share.samples)
    epochs = [own[start : start + size] for start in range(0, len(own), size)][:50]
    whole = [epoch for epoch in epochs if len(epoch) == size]
    assert whole
    assert all(np.array_equal(np.sort(epoch), share.samples) for epoch in whole)
    assert len({tuple(epoch) for epoch in epochs[:9]}) == len(epochs[:9])


@pytest.mark.parametrize("window", [1, 96])
def test_the_sample_at_a_position_needs_no_other_position(window: int) -> None:
    positions = [*range(40), *range(2 * BLOCK_SIZE - 5, 2 * BLOCK_SIZE + 5)]
    order, again, other = order_of(window=window), order_of(window=window), order_of(4, window)
    forwards = [order.index_at(position) for position in positions]
    assert [again.index_at(position) for position in reversed(positions)] == forwards[::-1]
    assert [other.index_at(position) for position in positions] != forwards


OVER_THE_END = BLOCK_SIZE // 48
"""A step of 48 samples that lies in two blocks."""


def test_any_number_of_ranks_learns_from_the_same_samples() -> None:
    order = order_of(window=96)
    steps = []
    for student_dp in (1, 2, 8):
        batch = BatchShape(micro_batch_size=3, accumulation_steps=16 // student_dp, student_dp=student_dp)
        units = [units_of_step(order, step=step, batch=batch) for step in (0, OVER_THE_END)]
        steps.append([sorted(sum(of_step, ())) for of_step in units])
    assert steps[0] == steps[1] == steps[2]
    assert len(steps[0][1]) == 48


def test_without_weights_what_is_left_out_is_never_drawn_and_the_rest_once_an_epoch() -> None:
    kept = [
        SourceShare(name=str(first), samples=np.arange(first, 90, 7, dtype=np.int32), weight=None)
        for first in (0, 3)
    ]
    order = SampleOrder(np.arange(1, 91), 3, "digest", 1, kept)
    expected = sorted([*range(0, 90, 7), *range(3, 90, 7)])
    epochs = [
        [order.index_at(position) for position in range(start, start + len(expected))]
        for start in (0, len(expected))
    ]
    assert [sorted(epoch) for epoch in epochs] == [expected, expected]
    assert epochs[0] != epochs[1]


def test_weights_belong_to_what_a_run_can_go_on_with() -> None:
    plain = SampleOrder(np.arange(1, sum(SIZES) + 1), 3, "digest {}")
    heavier = SampleOrder(np.arange(1, 606), 3, "digest {}", 1, shares_of((5, 300, 300), (1, 1, 2)))
    assert len({plain.identity, order_of().identity, heavier.identity}) == 3


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1, 1, 1), (4, 3, 3)), ((3, 1, 1), (6, 2, 2)), ((0.55, 0.25, 0.2), (6, 2, 2)), ((7,), (10,))],
)
def test_quotas_are_those_of_the_largest_remainder(
    weights: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert quotas_of(shares_of((9,) * len(weights), weights), block_size=10) == expected


def test_a_weight_that_would_never_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"source 9 has weight 1e-07 of 1, which is less than one sample in"):
        quotas_of(shares_of((9, 9), (1, 1e-7)))
