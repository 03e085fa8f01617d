import pytest

from genrecal_mcore.planning import Part, RankKind, fit_text, memory_header, memory_rows, notes
from genrecal_mcore.planning.table import bytes_text

GIB, MIB = 2**30, 2**20

KINDS = (
    RankKind(
        name="teacher stage 0",
        ranks=range(2),
        parts={Part.ACTIVATIONS: 3 * MIB, Part.LANGUAGE_BODY: 2 * GIB},
        loading_bytes=2 * GIB,
    ),
    RankKind(name="student", ranks=range(2, 3), parts={Part.ACTIVATIONS: 5 * MIB}, loading_bytes=7 * MIB),
)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(3 * GIB // 2, "1.5 GiB"), (GIB, "1.0 GiB"), (GIB - 1, "1024.0 MiB"), (MIB // 4, "0.250 MiB")],
)
def test_bytes_are_shown_in_gib_and_small_ones_in_mib(num_bytes: int, text: str) -> None:
    assert bytes_text(num_bytes) == text


def test_a_row_a_part_a_column_a_kind_of_rank_and_the_sum_last() -> None:
    assert memory_header(KINDS) == ("memory a rank", "teacher stage 0, ranks 0-1", "student, rank 2")
    assert memory_rows(KINDS) == [
        ("language body, weights", "2.0 GiB", ""),
        ("activations (estimate)", "3.0 MiB", "5.0 MiB"),
        ("sum", "2.0 GiB", "5.0 MiB"),
    ]


def test_a_model_that_is_larger_before_it_is_sharded_is_noted() -> None:
    assert notes(KINDS)[-1] == "Before it is sharded, the model takes 7.0 MiB on each rank: student, rank 2."


def test_whether_memory_was_compared_is_said() -> None:
    assert fit_text(KINDS, available_bytes=None).startswith("Memory was not compared")
    assert "the fullest is teacher stage 0, ranks 0-1, with 2.0 GiB (50 %)" in fit_text(
        KINDS, available_bytes=4 * GIB
    )
