import random

import numpy as np
import pytest

from genrecal_mcore.data.order import (
    BatchShape,
    OnceOrder,
    SampleOrder,
    StepOrder,
    cut_into_units,
    deal_by_length,
    num_microbatches,
    samples_of_unit,
    units_of_step,
)

TOKENS = (7, 30, 2, 11, 5, 64, 8, 1, 19, 23, 3, 40, 9, 6, 13, 27, 4)
ORDER = SampleOrder(TOKENS, 5, "digest")
"""17 samples: they divide no step below: steps cross the ends of epochs."""


def samples_of_step(step: int, batch: BatchShape, order: StepOrder = ORDER) -> list[int]:
    """Return the samples of all units of a step."""
    units = [
        (microbatch, rank)
        for microbatch in range(num_microbatches(order, step=step, batch=batch))
        for rank in range(batch.student_dp)
    ]
    return [
        number
        for microbatch, rank in units
        for number in samples_of_unit(order, step=step, microbatch=microbatch, student_rank=rank, batch=batch)
    ]


def test_each_epoch_is_another_permutation_of_all_samples() -> None:
    epochs = [tuple(ORDER.index_at(17 * epoch + offset) for offset in range(17)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_positions_may_be_asked_in_any_order() -> None:
    forwards = [ORDER.index_at(position) for position in range(85)]
    assert [ORDER.index_at(position) for position in reversed(range(85))] == forwards[::-1]


def test_seed_and_digest_each_decide_the_order() -> None:
    orders = [ORDER, SampleOrder(TOKENS, 6, "digest"), SampleOrder(TOKENS, 5, "other")]
    assert len({tuple(order.index_at(position) for position in range(17)) for order in orders}) == 3


def test_equal_seed_and_digest_give_equal_orders() -> None:
    again = SampleOrder(TOKENS, 5, "digest")
    assert [again.index_at(p) for p in range(51)] == [ORDER.index_at(p) for p in range(51)]


@pytest.mark.parametrize(
    ("micro_batch_size", "accumulation_steps", "student_dp"),
    [(1, 1, 1), (2, 1, 3), (1, 4, 2), (3, 2, 1), (2, 3, 5)],
    ids=lambda size: str(size),
)
def test_units_cover_consecutive_positions_exactly_once(
    micro_batch_size: int, accumulation_steps: int, student_dp: int
) -> None:
    batch = BatchShape(
        micro_batch_size=micro_batch_size, accumulation_steps=accumulation_steps, student_dp=student_dp
    )
    size = micro_batch_size * accumulation_steps * student_dp
    for step in range(5):
        expected = [ORDER.index_at(position) for position in range(step * size, (step + 1) * size)]
        assert sorted(samples_of_step(step, batch)) == sorted(expected)


@pytest.mark.parametrize("step", [0, 1, 4])
def test_the_samples_of_a_step_do_not_depend_on_the_split(step: int) -> None:
    splits = [(12, 1, 1), (1, 12, 1), (1, 1, 12), (3, 2, 2), (2, 2, 3), (2, 3, 2), (1, 4, 3)]
    steps = [
        sorted(
            samples_of_step(
                step, BatchShape(micro_batch_size=size, accumulation_steps=accumulation, student_dp=dp)
            )
        )
        for size, accumulation, dp in splits
    ]
    assert all(samples == steps[0] for samples in steps)


def test_a_unit_keeps_the_order_of_positions() -> None:
    batch = BatchShape(micro_batch_size=3, accumulation_steps=2, student_dp=2)
    positions = {ORDER.index_at(position): position for position in range(12)}
    for rank in range(2):
        unit = samples_of_unit(ORDER, step=0, microbatch=1, student_rank=rank, batch=batch)
        assert [positions[number] for number in unit] == sorted(positions[number] for number in unit)


def test_units_have_about_as_many_tokens() -> None:
    dealt = deal_by_length(TOKENS, num_units=4)
    assert sorted(i for unit in dealt for i in unit) == list(range(len(TOKENS)))
    loads = [sum(TOKENS[i] for i in unit) for unit in dealt]
    assert max(loads) - min(loads) <= 2  # 272 tokens: 68 each at best


@pytest.mark.parametrize("num_units", [1, 5, 17])
def test_every_unit_gets_a_sample(num_units: int) -> None:
    assert all(deal_by_length(TOKENS, num_units=num_units))


@pytest.mark.parametrize("seed", range(50))
def test_no_unit_has_more_tokens_than_as_many_of_the_longest_sample(seed: int) -> None:
    draw = random.Random(seed)
    micro_batch_size, num_units = draw.randint(1, 5), draw.randint(1, 6)
    tokens = tuple(draw.choice((1, 40, 90, 97, 100)) for _ in range(micro_batch_size * num_units))
    for unit in deal_by_length(tokens, num_units=num_units):
        assert sum(tokens[i] for i in unit) <= micro_batch_size * max(tokens)


@pytest.mark.parametrize("unit_tokens", [64, 65, 100, 1000])
@pytest.mark.parametrize("step", range(4))
def test_a_token_budget_is_kept_by_as_few_microbatches_as_can(unit_tokens: int, step: int) -> None:
    batch = BatchShape(micro_batch_size=3, accumulation_steps=2, student_dp=2, unit_tokens=unit_tokens)
    samples = ORDER.samples_of_step(step, batch)
    assert sorted(samples_of_step(step, batch)) == sorted(samples)
    units = [
        samples_of_unit(ORDER, step=step, microbatch=microbatch, student_rank=rank, batch=batch)
        for microbatch in range(num_microbatches(ORDER, step=step, batch=batch))
        for rank in range(2)
    ]
    assert all(0 < sum(TOKENS[i] for i in unit) <= unit_tokens for unit in units)
    if len(units) > 2:
        fewer = deal_by_length(tuple(TOKENS[i] for i in samples), num_units=len(units) - 2)
        assert any(sum(TOKENS[samples[i]] for i in unit) > unit_tokens for unit in fewer)


def test_short_samples_take_fewer_microbatches_than_long_ones() -> None:
    batch = BatchShape(micro_batch_size=1, accumulation_steps=6, student_dp=2, unit_tokens=100)
    assert len(cut_into_units((50,) * 12, batch)) == 6
    assert len(cut_into_units((10,) * 12, batch)) == 2
    assert len(cut_into_units((100,) * 12, batch)) == 12


def test_a_sample_longer_than_a_unit_is_an_error() -> None:
    batch = BatchShape(micro_batch_size=1, accumulation_steps=2, student_dp=1, unit_tokens=40)
    with pytest.raises(ValueError, match=r"64 tokens is longer than a unit of 40; raise train\.micro_batch"):
        cut_into_units((64, 3), batch)


@pytest.mark.parametrize("window", [2, 5, 17, 40])
def test_a_window_orders_by_length_and_loses_nothing(window: int) -> None:
    plain, sorted_ = ORDER, SampleOrder(TOKENS, 5, "digest", window)
    for start in range(0, 17, window):
        positions = range(start, min(start + window, 17))
        found = [sorted_.index_at(position) for position in positions]
        assert sorted(found) == sorted(plain.index_at(position) for position in positions)
        lengths = [TOKENS[i] for i in found]
        assert lengths == sorted(lengths, reverse=start // window % 2 == 1)
    forwards = [sorted_.index_at(position) for position in range(34)]
    assert [sorted_.index_at(position) for position in reversed(range(34))] == forwards[::-1]
    assert sorted_.identity != plain.identity


def test_a_window_makes_the_units_of_a_step_more_even() -> None:
    draw = random.Random(3)
    tokens = tuple(draw.randint(4, 1280) for _ in range(512))
    batch = BatchShape(micro_batch_size=1, accumulation_steps=1, student_dp=8)

    def unevenness(window: int) -> float:
        order = SampleOrder(tokens, 5, "digest", window)
        fullest = average = 0.0
        for step in range(64):
            lengths = [tokens[i] for i in samples_of_step(step, batch, order)]
            fullest, average = fullest + max(lengths), average + sum(lengths) / 8
        return fullest / average

    assert unevenness(1) > 1.5 and unevenness(64) < 1.15


@pytest.mark.parametrize("unit_tokens", [None, 64])
@pytest.mark.parametrize("left_out", [0, 1, 5, 12, 16])
def test_a_pass_takes_each_of_its_samples_once(left_out: int, unit_tokens: int | None) -> None:
    batch = BatchShape(micro_batch_size=2, accumulation_steps=2, student_dp=3, unit_tokens=unit_tokens)
    numbers = tuple(random.Random(1).sample(range(17), 17 - left_out))
    order = OnceOrder(tokens=np.array(TOKENS), numbers=np.array(numbers))
    steps = range(order.num_steps(batch))
    assert len(steps) == -(-len(numbers) // 12)
    taken = [sorted(samples_of_step(step, batch, order)) for step in steps]
    assert taken == [sorted(numbers[12 * step : 12 * (step + 1)]) for step in steps]


def test_a_pass_over_everything_has_the_units_of_the_first_epoch() -> None:
    batch = BatchShape(micro_batch_size=2, accumulation_steps=2, student_dp=3)
    once = OnceOrder(tokens=ORDER.tokens, numbers=ORDER.samples_at(0, 17))
    assert units_of_step(once, step=0, batch=batch) == units_of_step(ORDER, step=0, batch=batch)
