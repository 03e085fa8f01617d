import pytest

from genrecal_mcore.losses.chunks import MOST_ROWS, even_rows, rows_per_chunk


def test_a_budget_holds_as_many_rows_as_its_buffers_have() -> None:
    assert rows_per_chunk(211, 5 * 3 * 211 * 4 - 1, num_buffers=3) == 4
    assert rows_per_chunk(211, 2**40, num_buffers=3) == MOST_ROWS


def test_a_budget_below_one_row_is_refused_with_what_it_must_be() -> None:
    with pytest.raises(
        ValueError, match=r"loss.memory_budget_mib.*one row.*211 tokens; set it to at least 1 MiB"
    ):
        rows_per_chunk(211, 3 * 211 * 4 - 1, num_buffers=3)


@pytest.mark.parametrize(
    ("num_rows", "most", "expected"), [(0, 7, 1), (1, 7, 1), (7, 7, 7), (8, 7, 4), (37, 12, 10), (36, 12, 12)]
)
def test_chunks_are_few_and_about_equally_long(num_rows: int, most: int, expected: int) -> None:
    assert even_rows(num_rows, most=most) == expected
