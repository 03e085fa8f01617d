import pytest
import torch

from genrecal_mcore.data.recalibrator_layout import (
    payload_starts,
    student_path_layout,
    student_rows_before,
    teacher_path_layout,
    with_shares_apart,
)

# Sample 0: two turns; sample 1: one turn. Teacher and student cut the same text differently.
TEACHER_SPANS = (((3, 5), (8, 11)), ((2, 6),))
STUDENT_SPANS = (((2, 5), (7, 8)), ((4, 6),))
TEACHER_IDS = torch.arange(17)[None] + 100


def expected_student_path(with_questions: bool) -> list[list[str]]:
    """Write the sequences by hand, as `s<sample>.<position>` and `t<sample>.<position>`."""
    del with_questions
    return [
        ["s0.0", "s0.1", "t0.3", "t0.4", "s0.5", "s0.6", "t0.8", "t0.9", "t0.10"],
        ["s1.0", "s1.1", "s1.2", "s1.3", "t1.2", "t1.3", "t1.4", "t1.5"],
    ]


def payload_names(with_questions: bool) -> list[str]:
    if with_questions:
        return [f"t0.{p}" for p in range(11)] + [f"t1.{p}" for p in range(6)]
    return [
        *(f"t0.{p}" for p in (2, 3, 4)),
        *(f"t0.{p}" for p in (7, 8, 9, 10)),
        *(f"t1.{p}" for p in range(1, 6)),
    ]


@pytest.mark.parametrize("with_questions", [False, True])
def test_student_path_is_student_questions_and_teacher_answers_in_turn(with_questions: bool) -> None:
    layout = student_path_layout(STUDENT_SPANS, TEACHER_SPANS, TEACHER_IDS, with_questions=with_questions)
    in_pack = [f"s0.{p}" for p in range(8)] + [f"s1.{p}" for p in range(6)]
    student = [in_pack[position] for position in layout.student_rows.tolist()]
    names = student + payload_names(with_questions)
    first, second = expected_student_path(with_questions)
    assert [names[i] for i in layout.source.tolist()] == first + second
    assert layout.bounds == (0, len(first), len(first) + len(second))


@pytest.mark.parametrize("with_questions", [False, True])
def test_labels_and_kl_targets_start_at_the_boundary(with_questions: bool) -> None:
    layout = student_path_layout(STUDENT_SPANS, TEACHER_SPANS, TEACHER_IDS, with_questions=with_questions)
    names = payload_names(with_questions)
    assert [names[i] for i in layout.teacher_rows.tolist()] == [
        *("t0.2", "t0.3"),
        *("t0.7", "t0.8", "t0.9"),
        *("t1.1", "t1.2", "t1.3", "t1.4"),
    ]
    assert layout.labels.tolist() == [103, 104, 108, 109, 110, 113, 114, 115, 116]
    assert layout.label_rows.tolist() == [1, 2, 5, 6, 7, 9 + 3, 9 + 4, 9 + 5, 9 + 6]
    assert layout.boundary.tolist() == [0, 2, 5]
    assert layout.rest.tolist() == [1, 3, 4, 6, 7, 8]


def test_teacher_path_is_the_teachers_own_sequence() -> None:
    layout = teacher_path_layout(TEACHER_SPANS, TEACHER_IDS)
    assert layout.student_rows.numel() == 0
    assert layout.source.tolist() == list(range(17))
    assert layout.bounds == (0, 11, 17)
    assert layout.label_rows.tolist() == [2, 3, 7, 8, 9, 12, 13, 14, 15]


def test_payload_starts_count_boundary_and_answer_rows() -> None:
    assert payload_starts(TEACHER_SPANS, with_questions=False) == [[0, 3], [7]]
    assert payload_starts(TEACHER_SPANS, with_questions=True) == [[2, 7], [12]]


def test_shares_apart_are_two_copies_of_every_sequence_with_half_of_the_labels_each() -> None:
    layout = student_path_layout(STUDENT_SPANS, TEACHER_SPANS, TEACHER_IDS, with_questions=False)
    twice = with_shares_apart(layout)
    n, s = len(layout.student_rows), len(layout.source)
    # Student rows i and n + i are the same one; the payload's follow them.
    assert twice.student_rows.tolist() == 2 * layout.student_rows.tolist()
    once = [row if row < n else f"payload {row - n}" for row in layout.source.tolist()]
    names = [
        row if row < n else row - n if row < 2 * n else f"payload {row - 2 * n}"
        for row in twice.source.tolist()
    ]
    assert names == once + once
    assert all(row < n or row >= 2 * n for row in twice.source[:s].tolist())
    assert all(row >= n for row in twice.source[s:].tolist())
    assert twice.bounds == (*layout.bounds, *(s + bound for bound in layout.bounds[1:]))
    assert (twice.label_rows[layout.boundary] == layout.label_rows[layout.boundary]).all()
    assert (twice.label_rows[layout.rest] == layout.label_rows[layout.rest] + s).all()


# "ab cd" is cut into a|b cd|end by the student, and into ab| c|d|end by the teacher.
STUDENT_ENDS = (((1, 5, 6), (2,)), ((1, 3),))
TEACHER_ENDS = (((2, 4), (1, 3, 4)), ((1, 2, 3, 4),))


def test_a_students_row_stands_before_the_first_teachers_row_that_knows_as_much() -> None:
    assert student_rows_before((1, 5, 6), (2, 4, 5, 6)) == [1, 1, 2, 3]
    # Both know two bytes: the student's row may be seen by the one that does too.
    assert student_rows_before((2, 2, 3), (2, 3)) == [2, 3]
    assert student_rows_before(None, (2, 3)) is None and student_rows_before((2, 3), None) is None


@pytest.mark.parametrize("with_questions", [False, True])
def test_student_answers_stand_among_the_teachers_and_labels_follow_the_teachers(
    with_questions: bool,
) -> None:
    spans = (((2, 5), (7, 8)), ((4, 6),))
    layout = student_path_layout(
        spans,
        TEACHER_SPANS,
        TEACHER_IDS,
        with_questions=with_questions,
        text_ends=(STUDENT_ENDS, TEACHER_ENDS),
    )
    in_pack = [f"s0.{p}" for p in range(8)] + [f"s1.{p}" for p in range(6)]
    names = [in_pack[position] for position in layout.student_rows.tolist()] + payload_names(with_questions)
    rows = [names[i] for i in layout.source.tolist()]
    assert rows == [
        *("s0.0", "s0.1", "s0.2", "t0.3", "t0.4", "s0.3", "s0.4"),
        *("s0.5", "s0.6", "t0.8", "s0.7", "t0.9", "t0.10"),
        *("s1.0", "s1.1", "s1.2", "s1.3", "s1.4", "t1.2", "t1.3", "s1.5", "t1.4", "t1.5"),
    ]
    assert layout.bounds == (0, 13, 23)
    assert [rows[i] for i in layout.question_rows.tolist()] == [
        *("s0.0", "s0.1", "s0.5", "s0.6"),
        *("s1.0", "s1.1", "s1.2", "s1.3"),
    ]
    # A label is predicted by the teacher's row before it, the first one by the last question row.
    predicting = [rows[i] for i in layout.label_rows.tolist()]
    assert predicting == ["s0.1", "t0.3", "s0.6", "t0.8", "t0.9", "s1.3", "t1.2", "t1.3", "t1.4"]
    assert layout.labels.tolist() == [103, 104, 108, 109, 110, 113, 114, 115, 116]


def test_student_answers_whose_text_is_not_known_stand_behind_the_teachers() -> None:
    unknown = ((None, None), (None,))
    layout = student_path_layout(
        STUDENT_SPANS, TEACHER_SPANS, TEACHER_IDS, with_questions=True, text_ends=(unknown, TEACHER_ENDS)
    )
    in_pack = [f"s0.{p}" for p in range(8)] + [f"s1.{p}" for p in range(6)]
    names = [in_pack[position] for position in layout.student_rows.tolist()] + payload_names(True)
    assert [names[i] for i in layout.source.tolist()][-6:] == ["t1.2", "t1.3", "t1.4", "t1.5", "s1.4", "s1.5"]
