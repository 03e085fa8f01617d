import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import (
    BatchShape,
    ModelProcessor,
    SampleIndex,
    SampleOrder,
    UnitLoader,
    UnitSamples,
    View,
    build_index,
    unit_samples,
)
from genrecal_mcore.data.llava import read_sample
from genrecal_mcore.data.loader import load_unit
from genrecal_mcore.status import Unit
from tests.helpers.tiny_data import make_tiny_dataset

BATCH = BatchShape(micro_batch_size=3, accumulation_steps=2, student_dp=2)
UNITS = [
    Unit(step=step, microbatch=microbatch, student_rank=rank)
    for step in range(2)
    for microbatch in range(2)
    for rank in range(2)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), 12, seed=4)


def index_of(data: Path, processor: ModelProcessor) -> SampleIndex:
    sources = (DataSource(path=data, images=data.parent / "images"),)
    processors = {"teacher": None, "student": processor}
    return build_index(data.parent / "index", DataConfig(sources=sources), processors)


def planned(index: SampleIndex) -> list[UnitSamples]:
    order = SampleOrder(index.tokens, 9, index.digest)
    return [unit_samples(unit, index, order, BATCH) for unit in UNITS]


def test_units_come_in_order_with_their_samples_renderings_and_pixels(
    data: Path, processor: ModelProcessor
) -> None:
    units = planned(index_of(data, processor))
    with UnitLoader(
        units, [View(processor=processor, with_pixels=True)], num_workers=0, pin_memory=False
    ) as loader:
        for unit in units:
            (microbatch,) = loader.load(unit.unit)
            samples = [read_sample(record) for record in unit.records]
            assert microbatch.sample_ids == tuple(sample.id for sample in samples)
            for i, (start, end) in enumerate(pairwise(microbatch.bounds)):
                rendered = processor.render(samples[i], unit.image_sizes[i])
                assert torch.equal(microbatch.input_ids[0, start:end], rendered.input_ids)
            images = [image for sample in samples for image in sample.images]
            expected = processor.pixels([Image.open(image.open()) for image in images])
            assert torch.equal(microbatch.vision.pixel_values, expected.pixel_values)
            num_image_tokens = (microbatch.input_ids == processor.image_token_id).sum()
            assert sum(microbatch.vision.features_per_item) == num_image_tokens


def test_a_unit_comes_once_for_each_view_and_pixels_only_where_asked_for(
    data: Path, processor: ModelProcessor
) -> None:
    (unit, *_) = planned(index_of(data, processor))
    views = [View(processor=processor, with_pixels=with_pixels) for with_pixels in (True, False)]
    with UnitLoader([unit], views, num_workers=0, pin_memory=False) as loader:
        seeing, blind = loader.load(unit.unit)
    assert seeing.vision is not None
    assert blind.vision is None
    assert torch.equal(seeing.input_ids, blind.input_ids)


def test_a_unit_is_padded_to_a_multiple(data: Path, processor: ModelProcessor) -> None:
    unit = planned(index_of(data, processor))[5]
    views = [View(processor=processor, with_pixels=False, pad_to_multiple_of=n) for n in (1, 29)]
    plain, padded = load_unit(unit, views)
    width = plain.input_ids.shape[1]
    assert width == sum(plain.lengths)
    assert padded.input_ids.shape[1] == -(-width // 29) * 29 > width
    assert padded.position_ids.shape[-1] == padded.input_ids.shape[1]
    assert torch.equal(padded.input_ids[:, :width], plain.input_ids)
    assert padded.lengths == plain.lengths


def resize(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((image.width + 1, image.height)).save(path)


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "what"),
    [(remove, "does not exist"), (truncate, "cannot be read"), (resize, r"has \(\d+, \d+\) pixels; it had")],
    ids=["gone", "truncated", "resized"],
)
def test_an_image_that_is_not_what_it_was_at_the_door_is_named_with_its_unit_and_sample(
    damage: Callable[[Path], None], what: str, data: Path, processor: ModelProcessor, tmp_path: Path
) -> None:
    shutil.copytree(data.parent, tmp_path / "data")
    unit = planned(index_of(tmp_path / "data" / data.name, processor))[3]
    sample = next(sample for sample in map(read_sample, unit.records) if sample.images)
    damage(sample.images[0].path)
    view = View(processor=processor, with_pixels=True)
    with UnitLoader([unit], [view], num_workers=0, pin_memory=False) as loader:
        expected = (
            f"the data of step 0, microbatch 1, student 1 could not be loaded: sample {sample.id}: the image "
            f"{sample.images[0]} {what}.*bring it back and pass --resume"
        )
        with pytest.raises(RuntimeError, match=expected):
            loader.load(unit.unit)


def test_a_change_reaches_every_tensor_of_a_microbatch(data: Path, processor: ModelProcessor) -> None:
    (unit, *_) = planned(index_of(data, processor))
    (batch,) = load_unit(unit, [View(processor=processor, with_pixels=True)])
    on_meta = batch.to(torch.device("meta"))
    tensors = [on_meta.input_ids, on_meta.position_ids, on_meta.vision.pixel_values]
    if batch.vision.image_grid_thw is not None:
        tensors.append(on_meta.vision.image_grid_thw)
    assert all(tensor.is_meta for tensor in tensors)
