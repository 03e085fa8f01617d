"""The paper's pairs, every teacher with every student, as published: what they read, what a step learns."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import (
    ImageFile,
    ModelProcessor,
    Sample,
    Turn,
    check_vocabularies,
    first_samples,
    load_processor,
)
from genrecal_mcore.data.chat import encode_text
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS
from genrecal_mcore.models import load_student
from tests.helpers.first_step import compare_with_reference, first_step, pair_folders, raw_config
from tests.helpers.published_models import STUDENTS, TEACHERS, make_published_model
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.training_run import train_run

pytestmark = [pytest.mark.families, pytest.mark.slow, pytest.mark.distributed]

MESHES = ((1, 1), (2, 1), (1, 2), (2, 2))


class Pair(NamedTuple):
    teacher: str
    student: str
    tp: int
    pp: int

    def __str__(self) -> str:
        return f"{self.teacher}-teaches-{self.student}-tp{self.tp}-pp{self.pp}"


# Every teacher and every student meets every mesh.
NUM_SAMPLES = 12
PAIRS = [
    Pair(teacher, student, *MESHES[(i + j) % len(MESHES)])
    for i, teacher in enumerate(TEACHERS)
    for j, student in enumerate(STUDENTS)
]

INTERNVL2_5_SYSTEM = (
    "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
INTERNVL2_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
    "英文名叫InternVL, 是一个有用无害的人工智能助手。"
)

# Of a 48 x 24 image: 2 x 1 tiles and a thumbnail of 4 tokens each; for Qwen2-VL, 8 merged patches.
QWEN2_VL_TEXT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n<|vision_start|>{8 * '<|image_pad|>'}<|vision_end|>What is shown?<|im_end|>\n"
    "<|im_start|>assistant\na red box<|im_end|>"
)
INTERNVL2_5_TEXT = (
    f"<|im_start|>system\n{INTERNVL2_5_SYSTEM}<|im_end|>\n"
    f"<|im_start|>user\n<img>{12 * '<IMG_CONTEXT>'}</img>\nWhat is shown?<|im_end|>\n"
    "<|im_start|>assistant\na red box<|im_end|>"
)
INTERNVL2_TEXT = (
    f"<|begin_of_text|><|im_start|>system\n{INTERNVL2_SYSTEM}<|im_end|>"
    f"<|im_start|>user\n<img>{12 * '<IMG_CONTEXT>'}</img>\nWhat is shown?<|im_end|>"
    "<|im_start|>assistant\na red box<|im_end|>"
)
NVLM_D_TEXT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<Image>"
    "<tile_1><|vision_pad|><|vision_pad|><|vision_pad|><|vision_pad|>"
    "<tile_2><|vision_pad|><|vision_pad|><|vision_pad|><|vision_pad|>"
    "<tile_global_thumbnail><|vision_pad|><|vision_pad|><|vision_pad|><|vision_pad|>"
    "</Image>\nWhat is shown?<|im_end|>\n"
    "<|im_start|>assistant\na red box<|im_end|>"
)
NVLM_D_ONE_TILE_TEXT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<Image>"
    "<tile_global_thumbnail><|vision_pad|><|vision_pad|><|vision_pad|><|vision_pad|>"
    "</Image>\nWhat is shown?<|im_end|>\n"
    "<|im_start|>assistant\na red box<|im_end|>"
)

TEXTS = {
    "Qwen2-VL-2B": QWEN2_VL_TEXT,
    "Qwen2-VL-7B": QWEN2_VL_TEXT,
    "Qwen2-VL-72B": QWEN2_VL_TEXT,
    "InternVL2.5-1B": INTERNVL2_5_TEXT,
    "InternVL2.5-2B": "<s>" + INTERNVL2_5_TEXT,
    "InternVL2.5-4B": INTERNVL2_5_TEXT,
    "InternVL2.5-8B": "<s>" + INTERNVL2_5_TEXT,
    "InternVL2.5-78B": INTERNVL2_5_TEXT,
    "InternVL2-76B": INTERNVL2_TEXT,
    "NVLM-D-72B": NVLM_D_TEXT,
    "Qwen2.5-VL-7B": QWEN2_VL_TEXT,
    "InternVL3-8B": INTERNVL2_5_TEXT,
}

ONE_OF_EACH_TOKENIZER = (
    "Qwen2-VL-2B",
    "InternVL2.5-1B",
    "InternVL2.5-2B",
    "InternVL2-76B",
    "NVLM-D-72B",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pairs")
    made = {"data": make_tiny_dataset(root / "data", NUM_SAMPLES, seed=5)}
    for seed, name in enumerate(PUBLISHED_MODELS):
        made[name] = make_published_model(root / name, name, seed=seed)
    for name in TEACHERS:
        made[f"{name}_teacher"] = root / f"{name}_teacher"
        convert_to_mcore(made[name], made[f"{name}_teacher"])
    return made


def rendering(processor: ModelProcessor, size: tuple[int, int]) -> str:
    """Render a conversation of one turn about one image; return it decoded."""
    turn = Turn(question="<image>\nWhat is shown?", answer="a red box")
    sample = Sample(
        id="0", images=(ImageFile(name="0.png", path=Path("0.png")),), turns=(turn,), source="test"
    )
    rendered = processor.render(sample, [size])
    ((start, end),) = rendered.answer_spans
    assert processor.decode(rendered.input_ids[start:end]) == "a red box<|im_end|>"
    return processor.decode(rendered.input_ids)


@pytest.mark.parametrize("name", list(PUBLISHED_MODELS))
def test_a_conversation_reads_as_the_makers_write_it(name: str, folders: dict[str, Path]) -> None:
    assert rendering(load_processor(folders[name]), (48, 24)) == TEXTS[name]


def test_nvlm_d_calls_the_only_tile_of_an_image_its_thumbnail(folders: dict[str, Path]) -> None:
    assert rendering(load_processor(folders["NVLM-D-72B"]), (24, 24)) == NVLM_D_ONE_TILE_TEXT


@pytest.mark.parametrize("name", TEACHERS)
def test_a_converted_teacher_reads_what_its_source_reads(name: str, folders: dict[str, Path]) -> None:
    processor = load_processor(folders[f"{name}_teacher"] / "tokenizer")
    assert rendering(processor, (48, 24)) == TEXTS[name]


@pytest.mark.parametrize("name", [name for name in PUBLISHED_MODELS if not name.startswith("Qwen")])
def test_the_file_of_a_clip_processor_is_ignored(name: str, folders: dict[str, Path]) -> None:
    assert "CLIPFeatureExtractor" in (folders[name] / "preprocessor_config.json").read_text(encoding="utf-8")
    pixels = load_processor(folders[name]).pixels([Image.new("RGB", (48, 24), "red")])
    assert pixels is not None
    assert pixels.pixel_values.shape == (3, 3, 24, 24)
    assert pixels.features_per_item == (4, 4, 4)


def test_each_kind_of_tokenizer_cuts_a_text_in_its_own_way(folders: dict[str, Path]) -> None:
    text = "Is the small rectangle shown in the image yellow?"
    seen = [
        tuple(encode_text(load_processor(folders[name]).tokenizer, text)) for name in ONE_OF_EACH_TOKENIZER
    ]
    assert len(set(seen)) == len(seen)
    assert all(len(ids) < len(text) for ids in seen)


@pytest.mark.parametrize("name", list(PUBLISHED_MODELS))
def test_a_student_loads_with_a_row_for_every_token(name: str, folders: dict[str, Path]) -> None:
    student = load_student(folders[name], dtype=torch.float64)
    num_tokens = len(load_processor(folders[name]).tokenizer)
    assert student.get_input_embeddings().weight.shape[0] >= num_tokens
    assert student.lm_head.weight.dtype == torch.float64


SERVED_BY_TRADITIONAL_DISTILLATION = {
    ("Qwen2-VL-72B", "Qwen2-VL-7B"),
    ("Qwen2-VL-72B", "Qwen2-VL-2B"),
    ("InternVL2.5-78B", "InternVL2.5-4B"),
    ("InternVL2.5-78B", "InternVL2.5-1B"),
}
"""Figure 8(a) of the paper."""


def is_served(teacher: ModelProcessor, student: ModelProcessor, data: Path) -> bool:
    """Tell whether both models read the same tokens of every sample, in one vocabulary."""
    processors = {"teacher": teacher, "student": student}
    config = DataConfig(sources=(DataSource(path=data, images=data.parent / "images"),))
    try:
        check_vocabularies("kl", processors)
    except ValueError:
        return False
    checked = first_samples(config, processors, num_records=NUM_SAMPLES)
    return all(facts.shared_tokens == "all" for _, facts in checked)


def test_traditional_distillation_serves_the_pairs_that_the_paper_says(folders: dict[str, Path]) -> None:
    processors = {name: load_processor(folders[name]) for name in (*TEACHERS, *STUDENTS)}
    served = {
        (teacher, student)
        for teacher in TEACHERS
        for student in STUDENTS
        if is_served(processors[teacher], processors[student], folders["data"])
    }
    assert served == SERVED_BY_TRADITIONAL_DISTILLATION


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_losses_and_gradients_equal_the_reference(
    pair: Pair, stage: int, folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    names = (pair.teacher, pair.student)
    config = raw_config(pair_folders(folders, names), tmp_path / "run")
    config["mesh"] = {"teacher": {"tp": pair.tp, "pp": pair.pp}, "student": {"dp": 1}}
    config["train"] |= {"micro_batch_size": 2, "accumulation_steps": 3}
    num_ranks = pair.tp * pair.pp + 1
    if stage == 2:
        rank_pool.run(train_run, num_ranks, config | {"run": {"dir": tmp_path / "stage1"}})
        config |= {"stage": 2, "init_from": tmp_path / "stage1"}

    results = rank_pool.run(first_step, num_ranks, config)

    compare_with_reference(results, {"pair": names, "stage": stage}, folders)
