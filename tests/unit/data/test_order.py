import pytest

from genrecal_mcore.data.order import BatchShape, SampleOrder, samples_of_unit

ORDER = SampleOrder(17, 5, "digest")
"""17 samples divide no step below: steps cross the ends of epochs."""


def samples_of_step(step: int, batch: BatchShape) -> list[int]:
    """Return the samples of all units of a step, in the order of their positions."""
    units = [
        (microbatch, rank)
        for microbatch in range(batch.accumulation_steps)
        for rank in range(batch.student_dp)
    ]
    return [
        number
        for microbatch, rank in units
        for number in samples_of_unit(ORDER, step=step, microbatch=microbatch, student_rank=rank, batch=batch)
    ]


def test_each_epoch_is_another_permutation_of_all_samples() -> None:
    epochs = [tuple(ORDER.index_at(17 * epoch + offset) for offset in range(17)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(17)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_positions_may_be_asked_in_any_order() -> None:
    forwards = [ORDER.index_at(position) for position in range(85)]
    assert [ORDER.index_at(position) for position in reversed(range(85))] == forwards[::-1]


def test_seed_and_digest_each_decide_the_order() -> None:
    orders = [ORDER, SampleOrder(17, 6, "digest"), SampleOrder(17, 5, "other")]
    assert len({tuple(order.index_at(position) for position in range(17)) for order in orders}) == 3


def test_equal_seed_and_digest_give_equal_orders() -> None:
    again = SampleOrder(17, 5, "digest")
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
    seen = [number for step in range(5) for number in samples_of_step(step, batch)]
    size = micro_batch_size * accumulation_steps * student_dp
    assert seen == [ORDER.index_at(position) for position in range(5 * size)]


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


def test_ranks_of_a_microbatch_stand_side_by_side() -> None:
    batch = BatchShape(micro_batch_size=2, accumulation_steps=2, student_dp=3)
    unit = samples_of_unit(ORDER, step=1, microbatch=1, student_rank=2, batch=batch)
    assert unit == (ORDER.index_at(12 + 6 + 4), ORDER.index_at(12 + 6 + 5))
