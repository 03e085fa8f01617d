import pytest

from genrecal_mcore.observability.rank_plot import ranks_figure
from genrecal_mcore.status import Activity, StatusRecord


def test_each_rank_has_one_bar_whose_parts_are_its_seconds_by_activity() -> None:
    roles = ["teacher tp 0 pp 0 dp 0", "teacher tp 0 pp 1 dp 0", "student dp 0"]
    records = [
        StatusRecord(
            rank=rank,
            role=role,
            host="node",
            pid=1,
            world_size=3,
            seconds={activity: 10.0 * rank + part for part, activity in enumerate(Activity)},
        )
        for rank, role in enumerate(roles)
    ]
    axes = ranks_figure(records).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{rank}  {role}" for rank, role in enumerate(roles)
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "compute", "wait", "transfer", "data", "optimizer", "checkpoint", "other",
    ]  # fmt: skip
    for bars in axes.containers:
        part = list(Activity).index(Activity(bars.get_label()))
        assert [bar.get_width() for bar in bars] == [10.0 * rank + part for rank in range(3)]
    for rank, record in enumerate(records):
        last = axes.containers[-1][rank]
        assert last.get_x() + last.get_width() == pytest.approx(sum(record.seconds.values()))
