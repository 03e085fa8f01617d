import pytest

from genrecal_mcore.profiling.fit import seconds_of_each

AMOUNTS = [(1.0, 4e9, 2e9), (1.0, 4e9, 8e9), (1.0, 5e8, 1e8), (2.0, 3e9, 1e9)]


def times_of(each: tuple[float, ...]) -> list[float]:
    return [sum(amount * s for amount, s in zip(row, each, strict=True)) for row in AMOUNTS]


def test_the_times_of_each_amount_are_found_again() -> None:
    each = (0.003, 2e-11, 5e-12)
    assert seconds_of_each(AMOUNTS, times_of(each)) == pytest.approx(each)


def test_what_would_give_time_back_is_free() -> None:
    found = seconds_of_each(AMOUNTS, times_of((0.003, 2e-11, -1e-12)))
    assert found[2] == 0.0 and min(found) >= 0.0
    assert found[1] == pytest.approx(2e-11, rel=0.2)
