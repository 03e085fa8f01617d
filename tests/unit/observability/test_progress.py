import logging

import pytest

from genrecal_mcore.observability import METRIC_FIELDS, CountLine, ProgressLine
from genrecal_mcore.observability.progress import rate_text, step_text


def metrics_of(step: int, *, waits: tuple[float, float] | None = (0.5, 0.25)) -> dict[str, float | None]:
    values = {"loss": 2.5, "step_s": 2.0, "answer_tokens_student": 70}
    student_wait_s, teacher_wait_s = waits or (None, None)
    waited = {"student_wait_s": student_wait_s, "teacher_wait_s": teacher_wait_s}
    return {name: None for name in METRIC_FIELDS} | values | waited | {"step": step}


def test_text_has_loss_seconds_waits_and_rate() -> None:
    assert step_text(metrics_of(0)) == (
        "loss 2.5000  2.00 s a step  waited 0.50 s for the teacher, 0.25 s for the student  "
        "35 answer tokens/s"
    )


def test_text_has_no_waits_where_there_is_no_teacher() -> None:
    assert step_text(metrics_of(0, waits=None)) == "loss 2.5000  2.00 s a step  35 answer tokens/s"


@pytest.mark.parametrize(
    ("first_step", "logged"),
    [(0, ["1/7", "3/7", "6/7", "7/7"]), (4, ["5/7", "6/7", "7/7"])],
    ids=["fresh", "resumed"],
)
def test_without_a_terminal_first_last_and_every_nth_step_are_logged(
    caplog: pytest.LogCaptureFixture, first_step: int, logged: list[str]
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="genrecal_mcore"),
        ProgressLine(title="stage 2", num_steps=7, first_step=first_step, log_every_steps=3) as progress,
    ):
        for step in range(first_step, 7):
            progress.update(metrics_of(step))
    assert [record.getMessage().split()[2] for record in caplog.records] == logged


@pytest.mark.parametrize(
    ("num_done", "elapsed_s", "text"),
    [
        (30, 12.0, "2.5 a second, 0:00:28 left"),
        (50, 0.2, "250 a second, 0:00:00 left"),
        (1, 100.0, "0.0 a second, 2:45:00 left"),
        (5, 0.0, ""),
    ],
)
def test_a_count_has_its_rate_and_the_time_left(num_done: int, elapsed_s: float, text: str) -> None:
    assert rate_text(num_done, 100, elapsed_s=elapsed_s) == text


@pytest.mark.parametrize(
    ("is_shown", "log_every_s", "logged"),
    [(True, 0.0, ["3/7", "6/7", "7/7"]), (True, 1e6, ["7/7"]), (False, 0.0, [])],
)
def test_without_a_terminal_counts_are_logged_now_and_then_and_at_the_end(
    caplog: pytest.LogCaptureFixture, is_shown: bool, log_every_s: float, logged: list[str]
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="genrecal_mcore"),
        CountLine(title="answers", total=7, is_shown=is_shown, log_every_s=log_every_s) as line,
    ):
        for count in (3, 3, 1):
            line.advance(count)
    assert [record.getMessage().split()[1] for record in caplog.records] == logged
