import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import (
    SampleIndex,
    batch_shape,
    describe_sources,
    index_of_run,
    load_processors,
    sample_order,
    show_step,
)
from tests.helpers.first_step import raw_config
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_sources import records_in, write_parquet, write_tar

NUM_SAMPLES = 12
"""Of each source; half are of circles, half of rectangles."""
WEIGHTS = (0.5, 0.3, 0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a source of each kind."""
    root = tmp_path_factory.mktemp("data")
    data = make_tiny_dataset(root / "tiny", NUM_SAMPLES, seed=4)
    records, images = records_in(data), data.parent / "images"
    write_parquet(root / "rows" / "train-0.parquet", records[:5], images)
    write_parquet(root / "rows" / "train-1.parquet", records[5:], images)
    write_tar(root / "shards" / "000.tar", records, images)
    return root


def run_config(
    folder: Path, student: Path, *, weights: tuple[float, ...] | None = None, **data: Any
) -> RunConfig:
    raw = raw_config({"student": student, "teacher": student, "data": folder}, folder / "run")
    del raw["teacher"]
    raw |= {"stage": 2, "method": "sft", "mesh": {"student": {"dp": 2}}}
    sources: list[dict[str, Any]] = [
        {"path": folder / "tiny" / "data.jsonl", "images": folder / "tiny" / "images"},
        {"path": folder / "rows"},
        {"path": folder / "shards" / "{000..000}.tar", "name": "shards"},
    ]
    for source, weight in zip(sources, weights or (), strict=weights is not None):
        source["weight"] = weight
    raw["data"] = {"sources": sources, "index": folder / "index"} | data
    return RunConfig.model_validate(raw)


@pytest.fixture(scope="module")
def student(model_folders: dict[str, Path]) -> Path:
    return model_folders["qwen2_vl"]


@pytest.fixture(scope="module")
def index(folder: Path, student: Path) -> SampleIndex:
    config = run_config(folder, student)
    return index_of_run(config, load_processors(config))


def test_weights_and_exclusions_need_no_other_index(folder: Path, student: Path, index: SampleIndex) -> None:
    config = run_config(folder, student, weights=WEIGHTS, exclude_domains=["circle"])
    again = index_of_run(config, load_processors(config))
    assert (again.digest, len(again)) == (index.digest, 3 * NUM_SAMPLES)


def test_the_samples_of_an_excluded_domain_are_never_drawn_and_the_others_once_an_epoch(
    folder: Path, student: Path, index: SampleIndex
) -> None:
    order = sample_order(run_config(folder, student, exclude_domains=["circle"]), index)
    epoch = [order.index_at(position) for position in range(3 * NUM_SAMPLES // 2)]
    assert sorted(epoch) == [number for number in range(len(index)) if index[number].domain == "rectangle"]


def test_another_choice_of_domains_is_another_order_to_a_checkpoint(
    folder: Path, student: Path, index: SampleIndex
) -> None:
    options: list[dict[str, Any]] = [{}, {"exclude_domains": ["circle"]}, {"weights": WEIGHTS}]
    orders = [sample_order(run_config(folder, student, **option), index) for option in options]
    assert len({order.identity for order in orders}) == 3
    assert orders[0].identity == index.digest


def test_weights_decide_what_is_drawn_also_where_domains_are_left_out(
    folder: Path, student: Path, index: SampleIndex
) -> None:
    config = run_config(folder, student, weights=WEIGHTS, exclude_domains=["circle"])
    summaries = describe_sources(config, index)
    assert [summary.share_asked for summary in summaries] == pytest.approx(WEIGHTS)
    assert [summary.share_drawn for summary in summaries] == pytest.approx(WEIGHTS, abs=2e-5)
    drawn = sample_order(config, index).rounds.draw(0)
    assert {index[number].domain for number in np.unique(drawn).tolist()} == {"rectangle"}


def test_a_source_is_described_by_what_the_index_has_of_it(
    folder: Path, student: Path, index: SampleIndex
) -> None:
    summaries = describe_sources(run_config(folder, student), index)
    assert [summary.name for summary in summaries] == ["data", "rows", "shards"]
    for number, summary in enumerate(summaries):
        lengths = index.student_tokens[number * NUM_SAMPLES : (number + 1) * NUM_SAMPLES]
        assert summary.domains == ("circle", "rectangle")
        assert (summary.num_samples, summary.num_skipped, summary.teacher) == (NUM_SAMPLES, 0, None)
        assert summary.student is not None
        assert (summary.student.mean, summary.student.most) == (lengths.mean(), lengths.max())
        assert summary.share_drawn == pytest.approx(1 / 3)
        assert summary.row()[-2:] == ("-", "33.33%")


def test_a_step_is_shown_whatever_kind_its_samples_come_from(
    folder: Path, student: Path, index: SampleIndex
) -> None:
    config = run_config(folder, student, weights=WEIGHTS)
    order, batch = sample_order(config, index), batch_shape(config)
    for step in range(6):
        numbers = order.samples_of_step(step, batch).tolist()
        shown = re.findall(r"(?m)^  (sample-\d+) ", show_step(config, step))
        assert sorted(shown) == sorted(index[number].id for number in numbers)
    seen = {index[n].source for step in range(6) for n in order.samples_of_step(step, batch).tolist()}
    assert seen == {"data", "rows", "shards"}


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (["circles"], r"no sample has the domain circles; the domains are circle, rectangle$"),
        (["circle", "rectangle"], r"leaves no sample; exclude fewer domains"),
    ],
)
def test_an_exclusion_that_cannot_be_meant_is_an_error(
    excluded: list[str], message: str, folder: Path, student: Path, index: SampleIndex
) -> None:
    with pytest.raises(ValueError, match=rf"^data\.exclude_domains:? {message}"):
        sample_order(run_config(folder, student, exclude_domains=excluded), index)
