import re
from pathlib import Path

import pytest

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import (
    SampleOrder,
    batch_shape,
    index_of_run,
    load_processors,
    samples_of_unit,
    show_step,
)
from tests.helpers.first_step import raw_config
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_index import samples_of


@pytest.fixture(scope="module")
def config(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("run")
    data = make_tiny_dataset(root / "data", 12, seed=4)
    teacher = root / "teacher"
    convert_to_mcore(model_folders["internvl_qwen2"], teacher)
    folders = {"teacher": teacher, "student": model_folders["qwen2_vl"], "data": data}
    raw = raw_config(folders, root / "run", mesh={"teacher": {}, "student": {"dp": 2}})
    raw["train"]["micro_batch_size"] = 2
    return RunConfig.model_validate(raw)


def test_a_shown_step_names_the_samples_of_each_unit(config: RunConfig) -> None:
    index = index_of_run(config, load_processors(config))
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
    index = index_of_run(config, processors)
    numbers = {sample.id: number for number, sample in enumerate(samples_of(index))}
    parts = re.split(r"  (sample-\d+)", show_step(config, 0))[1:]
    assert len(parts) == 2 * batch_shape(config).samples_per_step
    for sample_id, part in zip(parts[::2], parts[1::2], strict=True):
        sample, facts = index[numbers[sample_id]], index.facts(numbers[sample_id])
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
