import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.config import DataConfig, DataSource, RunConfig
from genrecal_mcore.data import (
    BatchShape,
    ModelProcessor,
    SampleIndex,
    SampleOrder,
    UnitLoader,
    batch_shape,
    build_index,
    load_processors,
    samples_of_unit,
    show_step,
)
from tests.helpers.first_step import raw_config
from tests.helpers.tiny_data import make_tiny_dataset

BATCH = BatchShape(micro_batch_size=3, accumulation_steps=2, student_dp=2)
UNITS = [(step, microbatch, rank) for step in range(2) for microbatch in range(2) for rank in range(2)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dataset(tmp_path_factory.mktemp("data"), 12, seed=4)


@pytest.fixture
def index(data: Path, processor: ModelProcessor) -> SampleIndex:
    sources = (DataSource(path=data, images=data.parent / "images"),)
    return build_index(DataConfig(sources=sources), {"teacher": None, "student": processor})


@pytest.fixture
def loader(index: SampleIndex, processor: ModelProcessor) -> UnitLoader:
    return UnitLoader(index, SampleOrder(index.tokens, 9, index.digest), processor, BATCH)


def samples_of(loader: UnitLoader, unit: tuple[int, int, int]) -> tuple[int, ...]:
    step, microbatch, rank = unit
    return samples_of_unit(loader.order, step=step, microbatch=microbatch, student_rank=rank, batch=BATCH)


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_a_unit_holds_its_samples_renderings_and_pixels(
    loader: UnitLoader, unit: tuple[int, int, int]
) -> None:
    numbers = samples_of(loader, unit)
    microbatch = loader.load(*unit, with_pixels=True)
    assert microbatch.sample_ids == tuple(f"sample-{number:03d}" for number in numbers)
    for (start, end), number in zip(pairwise(microbatch.bounds), numbers, strict=True):
        rendered = loader.processor.render(loader.index[number], loader.index.facts[number].image_sizes)
        assert torch.equal(microbatch.input_ids[0, start:end], rendered.input_ids)
    paths = [path for number in numbers for path in loader.index[number].images]
    expected = loader.processor.pixels([Image.open(path) for path in paths])
    assert torch.equal(microbatch.vision.pixel_values, expected.pixel_values)
    num_image_tokens = (microbatch.input_ids == loader.processor.image_token_id).sum()
    assert sum(microbatch.vision.features_per_item) == num_image_tokens


def test_pixels_are_left_alone_unless_asked_for(loader: UnitLoader, data: Path) -> None:
    with_pixels = loader.load(0, 1, 0, with_pixels=True)
    images = data.parent / "images"
    images.rename(images.with_name("away"))
    try:
        without = loader.load(0, 1, 0, with_pixels=False)
    finally:
        images.with_name("away").rename(images)
    assert with_pixels.vision is not None
    assert without.vision is None
    assert torch.equal(with_pixels.input_ids, without.input_ids)


def test_a_unit_is_padded_to_a_multiple(loader: UnitLoader) -> None:
    plain = loader.load(1, 0, 1, with_pixels=False)
    padded = loader.load(1, 0, 1, with_pixels=False, pad_to_multiple_of=29)
    width = plain.input_ids.shape[1]
    assert width == sum(plain.lengths)
    assert padded.input_ids.shape[1] == -(-width // 29) * 29 > width
    assert padded.position_ids.shape[-1] == padded.input_ids.shape[1]
    assert torch.equal(padded.input_ids[:, :width], plain.input_ids)
    assert padded.lengths == plain.lengths


@pytest.fixture(scope="module")
def config(model_folders: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("run")
    teacher = root / "teacher"
    convert_to_mcore(model_folders["internvl_qwen2"], teacher)
    folders = {"teacher": teacher, "student": model_folders["qwen2_vl"], "data": data}
    raw = raw_config(folders, root / "run", mesh={"teacher": {}, "student": {"dp": 2}})
    raw["train"]["micro_batch_size"] = 2
    return RunConfig.model_validate(raw)


def test_a_shown_step_names_the_samples_of_each_unit(config: RunConfig) -> None:
    index = build_index(config.data, load_processors(config))
    order = SampleOrder(index.tokens, config.train.seed, index.digest)
    text = show_step(config, 1)
    assert text.startswith("step 1: 8 of 12 samples, 0 skipped\n")
    shown = re.split(r"student rank (\d), microbatch (\d)\n", text)[1:]
    units = {(int(rank), int(micro)): part for rank, micro, part in zip(*[iter(shown)] * 3, strict=True)}
    assert list(units) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for (rank, microbatch), part in units.items():
        numbers = samples_of_unit(
            order, step=1, microbatch=microbatch, student_rank=rank, batch=batch_shape(config)
        )
        assert re.findall(r"sample-\d+", part) == [index[number].id for number in numbers]


def test_a_shown_step_marks_the_answers_of_both_models(config: RunConfig) -> None:
    processors = load_processors(config)
    index = build_index(config.data, processors)
    numbers = {sample.id: number for number, sample in enumerate(index.samples)}
    parts = re.split(r"  (sample-\d+)", show_step(config, 0))[1:]
    assert len(parts) == 2 * batch_shape(config).samples_per_step
    for sample_id, part in zip(parts[::2], parts[1::2], strict=True):
        sample, facts = index[numbers[sample_id]], index.facts[numbers[sample_id]]
        for role, processor in processors.items():
            rendered = processor.render(sample, facts.image_sizes)
            _, counts, shown = re.split(rf"    {role}: (.*)\n      (.*)\n?", part)[:3]
            expected = f"{len(rendered.input_ids)} tokens, {rendered.num_answer_tokens} of answers"
            assert counts == expected
            assert re.findall(r"\[\[(.*?)\]\]", shown) == [
                turn.answer + "<|im_end|>" for turn in sample.turns
            ]
            assert expanded(shown) == processor.decode(rendered.input_ids.tolist())


def expanded(shown: str) -> str:
    """Undo the marks, the counted runs of image tokens and the newlines written as text."""
    plain = re.sub(r"\[\[|\]\]", "", shown).replace("\\n", "\n")
    return re.sub(r"(<IMG_CONTEXT>|<\|image_pad\|>) x (\d+)", lambda run: run[1] * int(run[2]), plain)
