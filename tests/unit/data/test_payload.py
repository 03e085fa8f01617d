from collections.abc import Sequence

import pytest

from genrecal_mcore.data import num_sample_rows, payload_rows, sample_rows, wanted_among_held

SPANS, LENGTHS = (((3, 5), (8, 9)), ((2, 6),)), (9, 6)
"""Two samples: one of two answers, one of one."""


@pytest.mark.parametrize(
    ("with_questions", "expected"),
    [(False, [2, 3, 4, 7, 8, 10, 11, 12, 13, 14]), (True, list(range(15)))],
)
def test_the_rows_of_a_microbatch_are_those_of_its_samples_one_after_another(
    with_questions: bool, expected: Sequence[int]
) -> None:
    assert payload_rows(SPANS, LENGTHS, with_questions=with_questions).tolist() == expected


@pytest.mark.parametrize("with_questions", [False, True])
def test_counts_alone_say_how_many_rows_a_sample_has(with_questions: bool) -> None:
    for spans, length in zip(SPANS, LENGTHS, strict=True):
        answer_tokens = sum(end - start for start, end in spans)
        counted = num_sample_rows(answer_tokens, len(spans), tokens=length, with_questions=with_questions)
        assert counted == len(sample_rows(spans, length, with_questions=with_questions))


@pytest.mark.parametrize(("holds", "wants"), [(False, False), (True, False), (True, True)])
def test_the_rows_that_are_wanted_are_found_among_those_at_hand(holds: bool, wants: bool) -> None:
    for spans, length in zip(SPANS, LENGTHS, strict=True):
        held = sample_rows(spans, length, with_questions=holds)
        wanted = wanted_among_held(spans, length, holds_questions=holds, with_questions=wants)
        assert [held[place] for place in wanted] == list(sample_rows(spans, length, with_questions=wants))
