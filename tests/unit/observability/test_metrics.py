import json
from pathlib import Path

import pytest

from genrecal_mcore.observability import METRIC_FIELDS, MetricsWriter, read_metrics


def metrics_of(step: int) -> dict[str, float | None]:
    return {name: None for name in METRIC_FIELDS} | {"step": step, "loss": 1.0 / (step + 1)}


def write_steps(path: Path, steps: range) -> None:
    with MetricsWriter(path, first_step=steps.start) as writer:
        for step in steps:
            writer.write(metrics_of(step))


def test_a_step_is_on_disk_before_the_writer_closes(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl", first_step=0)
    writer.write(metrics_of(0))
    assert read_metrics(tmp_path / "metrics.jsonl") == [metrics_of(0)]
    writer.close()


def test_values_come_back_exactly(tmp_path: Path) -> None:
    write_steps(tmp_path / "metrics.jsonl", range(7))
    assert [step["loss"] for step in read_metrics(tmp_path / "metrics.jsonl")] == [
        1.0 / (n + 1) for n in range(7)
    ]


def test_fields_stand_in_the_published_order(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl", first_step=0) as writer:
        writer.write(dict(reversed(metrics_of(0).items())))
    assert tuple(json.loads((tmp_path / "metrics.jsonl").read_text())) == METRIC_FIELDS


def test_a_resumed_file_equals_the_undisturbed_one(tmp_path: Path) -> None:
    write_steps(tmp_path / "undisturbed.jsonl", range(9))
    write_steps(tmp_path / "resumed.jsonl", range(7))
    write_steps(tmp_path / "resumed.jsonl", range(4, 9))
    assert (tmp_path / "resumed.jsonl").read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_a_torn_last_line_is_cut_off_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(3))
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert len(read_metrics(path)) == 3
    write_steps(path, range(3, 5))
    assert [step["step"] for step in read_metrics(path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"los": 1.0}, r"unknown: \['los'\], missing: \[\]"),
        ({"lr": ...}, r"unknown: \[\], missing: \['lr'\]"),
    ],
    ids=["unknown", "missing"],
)
def test_other_fields_are_an_error_that_names_them(tmp_path: Path, change: dict, message: str) -> None:
    metrics = {name: value for name, value in (metrics_of(0) | change).items() if value is not ...}
    with (
        MetricsWriter(tmp_path / "metrics.jsonl", first_step=0) as writer,
        pytest.raises(ValueError, match=message),
    ):
        writer.write(metrics)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_broken_line_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(2))
    path.write_text(path.read_text() + "nonsense\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 3: expected one JSON object a line"):
        read_metrics(path)
