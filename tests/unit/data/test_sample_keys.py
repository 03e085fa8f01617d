"""A key changes with what a teacher sees of a sample, and with nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import ModelProcessor, SampleIndex, build_index, load_processor, sample_keys

CHANGED = 1
"""The record that is changed: it has one image and two turns."""


@pytest.fixture
def data(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copytree(tiny_folders["data"].parent, tmp_path / "data")
    return tmp_path / "data" / tiny_folders["data"].name


@pytest.fixture
def processor(tiny_folders: dict[str, Path]) -> ModelProcessor:
    return load_processor(tiny_folders["student"])


def index_of(data: Path, processor: ModelProcessor) -> SampleIndex:
    sources = (DataSource(path=data, images=data.parent / "images"),)
    folder, processors = data.parent / "index" / data.stem, {"teacher": None, "student": processor}
    return build_index(folder, DataConfig(sources=sources), processors)


def keys_after(data: Path, processor: ModelProcessor, change: Callable[[list[Any]], None]) -> np.ndarray:
    records = [json.loads(line) for line in data.read_text().splitlines()]
    change(records)
    path = data.with_name("changed.jsonl")
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return sample_keys(index_of(path, processor))


def new_names(records: list[Any]) -> None:
    for record in records:
        record |= {"id": record["id"] + "-again", "domain": "elsewhere"}


def another_answer(records: list[Any]) -> None:
    records[CHANGED]["conversations"][-1]["value"] += "!"


def another_question(records: list[Any]) -> None:
    records[CHANGED]["conversations"][0]["value"] += " "


def turns_the_other_way_round(records: list[Any]) -> None:
    first, second = (records[CHANGED]["conversations"][i : i + 2] for i in (0, 2))
    records[CHANGED]["conversations"] = second + first


def another_image(records: list[Any]) -> None:
    records[CHANGED]["image"] = records[0]["image"]


def test_new_ids_and_domains_change_no_key(data: Path, processor: ModelProcessor) -> None:
    before = sample_keys(index_of(data, processor))
    assert len(set(before.tolist())) == len(before) == 12
    assert np.array_equal(keys_after(data, processor, new_names), before)


@pytest.mark.parametrize(
    "change", [another_answer, another_question, turns_the_other_way_round, another_image]
)
def test_what_the_teacher_sees_changes_the_key_of_its_sample_alone(
    change: Callable[[list[Any]], None], data: Path, processor: ModelProcessor
) -> None:
    before = sample_keys(index_of(data, processor))
    assert np.flatnonzero(keys_after(data, processor, change) != before).tolist() == [CHANGED]


def test_an_image_that_was_replaced_under_its_name_changes_the_key(
    data: Path, processor: ModelProcessor
) -> None:
    index = index_of(data, processor)
    before = sample_keys(index)
    (image,) = index[CHANGED].images
    path = image.open()
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    pixels.putpixel((0, 0), (255, 255, 255))
    replaced = path.with_name("new.png")
    pixels.save(replaced)
    replaced.replace(path)
    assert np.flatnonzero(sample_keys(index) != before).tolist() == [CHANGED]


@pytest.mark.parametrize("world_size", [2, 5, 13])
def test_ranks_together_make_the_keys_of_one(world_size: int, data: Path, processor: ModelProcessor) -> None:
    index = index_of(data, processor)
    shares: list[list[str]] = []
    for rank in range(world_size):
        sample_keys(index, rank=rank, world_size=world_size, gather=lambda share: shares.append(share) or [])
    assert np.array_equal(sample_keys(index, gather=lambda _: shares), sample_keys(index))


def test_an_image_that_vanished_is_named_with_its_sample(data: Path, processor: ModelProcessor) -> None:
    index = index_of(data, processor)
    (image,) = index[CHANGED].images
    path = image.open()
    path.rename(path.with_name("away.png"))
    with pytest.raises(
        ValueError, match=rf"sample {index[CHANGED].id}: an image cannot be read .*{path.name}"
    ):
        sample_keys(index)
