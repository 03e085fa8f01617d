import threading
from collections.abc import Iterator

import pytest

from genrecal_mcore.evaluation.ahead import map_ahead

pytestmark = pytest.mark.evaluation


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_come_in_order_and_only_so_many_wait(num_workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        for number in range(20):
            assert number - taken <= num_workers  # nothing further ahead is begun
            yield number

    for number, square in enumerate(map_ahead(lambda n: n * n, items(), num_workers=num_workers)):
        assert square == number * number
        taken += 1
    assert taken == 20


def test_workers_work_at_once() -> None:
    both = threading.Barrier(2, timeout=30)
    assert len(list(map_ahead(lambda _: both.wait(), range(2), num_workers=2))) == 2


def test_an_error_is_raised_where_its_result_would_be_taken() -> None:
    results = map_ahead(lambda n: 12 // n, [3, 2, 0, 1], num_workers=2)
    assert [next(results), next(results)] == [4, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
