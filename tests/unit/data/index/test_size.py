"""That nothing but arrays grows with the number of samples."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from genrecal_mcore.config import DataConfig
from genrecal_mcore.data import (
    BatchShape,
    SampleIndex,
    SampleOrder,
    prepare_index,
    source_shares,
    units_of_step,
)
from tests.helpers.synthetic_index import NO_MODELS, write_synthetic_index

SIZES, WEIGHTS = (40_000, 15_000, 5_000), (0.2, 0.3, 0.5)
BATCH = BatchShape(micro_batch_size=4, accumulation_steps=2, student_dp=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_synthetic_index(tmp_path_factory.mktemp("synthetic"), SIZES, weights=WEIGHTS)


def open_index(data: DataConfig) -> SampleIndex:
    assert data.index is not None
    return prepare_index(data.index, data, NO_MODELS)


def with_peak_bytes(make: Callable[[], Any]) -> tuple[Any, int]:
    """Return what `make` returns, and the most memory that was allocated meanwhile."""
    tracemalloc.start()
    try:
        return make(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_opening_an_index_takes_no_memory_for_its_samples(data: DataConfig) -> None:
    index, peak = with_peak_bytes(lambda: open_index(data))
    assert len(index) == sum(SIZES)
    assert peak < 4 * len(index)  # 60 KB here; a list of as many numbers takes 8 bytes each


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_order_of_an_epoch_takes_arrays_of_int32_alone(is_weighted: bool, data: DataConfig) -> None:
    index = open_index(data)

    def samples_of_a_step() -> Any:
        shares = source_shares(data, index) if is_weighted else ()
        order = SampleOrder(index.tokens, 1, index.digest, 512, shares)
        assert len(units_of_step(order, step=3, batch=BATCH)) == 16
        return order.samples_of_step(3, BATCH)

    samples, peak = with_peak_bytes(samples_of_a_step)
    assert samples.dtype.name == "int32"
    num_drawn = max(len(index), 65_536)
    assert peak < 40 * num_drawn  # 25 bytes each where sources are mixed, 8 where they are not


def test_any_sample_is_read_by_its_number(data: DataConfig) -> None:
    index = open_index(data)
    for number, source, record in ((0, 0, 0), (39_999, 0, 39_999), (54_321, 1, 14_321), (59_999, 2, 4_999)):
        sample = index[number]
        assert (sample.source, sample.id, sample.domain) == (
            f"source_{source}",
            f"{record:010d}",
            f"domain {source}",
        )
        assert index.facts(number).image_sizes == ((640, 480),)
        assert index.facts(number).teacher_tokens == index.tokens[number]
