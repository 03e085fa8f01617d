import logging

import pytest

from genrecal_mcore.observability import METRIC_FIELDS, ProgressLine
from genrecal_mcore.observability.progress import step_text


def metrics_of(step: int) -> dict[str, float | None]:
    values = {"loss": 2.5, "lr": 1e-4, "step_s": 2.0, "answer_tokens_student": 70, "student_wait_s": 0.5}
    return {name: None for name in METRIC_FIELDS} | values | {"step": step}


def test_text_has_loss_rate_and_the_waits_that_exist() -> None:
    assert (
        step_text(metrics_of(0))
        == "loss 2.5000  lr 1.0e-04  35 answer tokens/s  student waited 0.50 s of 2.00 s"
    )


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
