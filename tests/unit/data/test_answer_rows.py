import torch

from genrecal_mcore.data import AnswerRows, Microbatch, replaced_answer_rows

SPANS = {"a": ((3, 5), (8, 11)), "b": ((2, 6),), "c": ((1, 401),)}
"""Answers of each sample; the second begins at token 111 of the batch [a, b]."""


def batch_of(*names: str) -> Microbatch:
    lengths = tuple(SPANS[name][-1][1] for name in names)
    return Microbatch(
        sample_ids=names,
        input_ids=100 + torch.arange(sum(lengths))[None],
        position_ids=torch.arange(sum(lengths))[None],
        lengths=lengths,
        answer_spans=tuple(SPANS[name] for name in names),
        vision=None,
    )


def chosen(batch: Microbatch, *, rate: float = 0.5, seed: int = 7, step: int = 2) -> AnswerRows:
    return replaced_answer_rows(batch, with_questions=False, rate=rate, seed=seed, step=step)


def test_at_rate_1_every_answer_row_is_chosen_and_no_boundary() -> None:
    with_questions = replaced_answer_rows(batch_of("a", "b"), with_questions=True, rate=1.0, seed=7, step=2)
    assert with_questions.rows.tolist() == [3, 4, 8, 9, 10, 13, 14, 15, 16]
    # For each answer the payload holds the boundary row and the answer's.
    assert chosen(batch_of("a", "b"), rate=1.0).rows.tolist() == [1, 2, 4, 5, 6, 8, 9, 10, 11]
    tokens = [103, 104, 108, 109, 110, 113, 114, 115, 116]
    assert (
        chosen(batch_of("a", "b"), rate=1.0).token_ids.tolist() == with_questions.token_ids.tolist() == tokens
    )


def test_the_choice_is_the_samples_whatever_stands_beside_it() -> None:
    alone = chosen(batch_of("c")).rows
    others = 3 + 4 + 5  # payload rows of a and b
    beside = chosen(batch_of("a", "b", "c")).rows
    assert (beside[beside >= others] - others).tolist() == alone.tolist()


def test_the_choice_changes_with_seed_and_step_and_keeps_to_the_rate() -> None:
    choices = [
        set(chosen(batch_of("c"), rate=0.3, seed=seed, step=step).rows.tolist())
        for seed, step in ((7, 2), (8, 2), (7, 3))
    ]
    assert all(80 < len(rows) < 160 for rows in choices)
    assert all(len(a & b) < 70 for a, b in zip(choices, choices[1:] + choices[:1], strict=True))
