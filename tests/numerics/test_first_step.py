"""The distributed run against the naive single-process reference: every loss term, every gradient."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import ModelProcessor, SampleIndex, build_index, load_processor
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.covering import Case, all_cases, pairwise_cases
from tests.helpers.first_step import first_step, raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.reference import (
    LoraState,
    ReferenceModels,
    ReferenceSample,
    RenderedConversation,
    add_reference_lora,
    build_reference_recalibrator,
    reference_step,
)
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model

RTOL_LOSS = 1e-5  # worst seen 4.8e-7 over the full product
RTOL_GRADIENT = 1e-4  # of a tensor's norm; worst seen 3.7e-6 over the full product

AXES = {
    "teacher": [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 2), (2, 2, 2)],
    "student_dp": [1, 2, 3],
    "stage": [1, 2],
    "pair": [("internvl_qwen2", "qwen2_vl"), ("qwen2_vl", "internvl_llama")],
    "sequence_parallel": [False, True],
}


def is_valid(case: Case) -> bool:
    return case["teacher"][0] > 1 or not case["sequence_parallel"]


FAST = pairwise_cases(AXES, is_valid)
SLOW = [case for case in all_cases(AXES, is_valid) if case not in FAST]


def case_id(case: Case) -> str:
    tp, pp, dp = case["teacher"]
    sp = "-sp" if case["sequence_parallel"] else ""
    return f"tp{tp}-pp{pp}-dp{dp}{sp}-student{case['student_dp']}-stage{case['stage']}-{case['pair'][0]}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    made = {"data": make_tiny_dataset(root / "data", 12, seed=5)}
    for seed, kind in enumerate(sorted({kind for pair in AXES["pair"] for kind in pair})):
        made[kind] = make_tiny_model(root / kind, kind, seed=seed)
        made[f"{kind}_teacher"] = root / f"{kind}_teacher"
        convert_to_mcore(made[kind], made[f"{kind}_teacher"], dtype=None, verify=False, overwrite=False)
    return made


@pytest.fixture(scope="module")
def stage1_runs(
    folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[Any, Path]:
    """Train one step of stage 1 for each pair, for stage 2 to start from."""
    from tests.helpers.training_run import train_run

    runs = {}
    for pair in AXES["pair"]:
        run_dir = tmp_path_factory.mktemp("stage1") / "run"
        config = raw_config(pair_folders(folders, pair), run_dir)
        config["mesh"] = {"teacher": {}, "student": {"dp": 1}}
        rank_pool.run(train_run, 2, config)
        runs[pair] = run_dir
    return runs


def pair_folders(folders: dict[str, Path], pair: tuple[str, str]) -> dict[str, Path]:
    return {"teacher": folders[f"{pair[0]}_teacher"], "student": folders[pair[1]], "data": folders["data"]}


@pytest.mark.distributed
@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=case_id(case)) for case in FAST),
        *(pytest.param(case, id=case_id(case), marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_losses_and_gradients_equal_the_reference(
    case: Case, folders: dict[str, Path], stage1_runs: dict[Any, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    tp, pp, dp = case["teacher"]
    config = raw_config(pair_folders(folders, case["pair"]), tmp_path / "run", stage=case["stage"])
    config["mesh"] = {
        "teacher": {"tp": tp, "pp": pp, "dp": dp, "sequence_parallel": case["sequence_parallel"]},
        "student": {"dp": case["student_dp"]},
    }
    config["train"]["accumulation_steps"] = {1: 6, 2: 3, 3: 2}[case["student_dp"]]
    if case["stage"] == 2:
        config["init_from"] = stage1_runs[case["pair"]]

    results = rank_pool.run(first_step, tp * pp * dp + case["student_dp"], config)

    (found,) = [result for result in results if result is not None]
    expected = reference(case, folders, found)
    terms = {name: value for name, value in expected.losses.items() if name in found["metrics"]}
    assert terms
    for name, value in terms.items():
        difference = abs(found["metrics"][name] - value)
        assert_relatively_close(difference, abs(value), RTOL_LOSS, name="losses of step 0", where=name)
    compare_gradients(found["gradients"], reference_gradients(expected))


def compare_gradients(found: dict[str, np.ndarray], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = float(np.linalg.norm(found[name] - gradient.numpy()))
        size = float(np.linalg.norm(gradient.numpy()))
        assert_relatively_close(difference, size, RTOL_GRADIENT, name="gradients of step 0", where=name)


def reference_gradients(step: Any) -> dict[str, torch.Tensor]:
    student = {f"student.model.language_model.{name}": g for name, g in step.student_gradients.items()}
    return student | {f"recalibrator.{name}": g for name, g in step.recalibrator_gradients.items()}


def reference(case: Case, folders: dict[str, Path], found: dict[str, Any]) -> Any:
    """Run the naive reference on the same samples with the same tensors."""
    teacher, student = (
        AutoModelForImageTextToText.from_pretrained(folders[kind], dtype=torch.float32).eval()
        for kind in case["pair"]
    )
    for model in (teacher, student):
        model.requires_grad_(False)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in found["tensors"].items()}
    prefix = "student.model.language_model."
    lora = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    state = {name.removeprefix("recalibrator."): t for name, t in tensors.items() if name.startswith("rec")}
    models = ReferenceModels(
        student=student,
        teacher=teacher,
        recalibrator=build_reference_recalibrator(state, student, teacher),
        trainable_student=add_reference_lora(student, LoraState(tensors=lora, r=3, alpha=6.0))
        if lora
        else {},
    )
    samples = reference_samples(case, folders, found["samples"])
    return reference_step(models, samples, stage=case["stage"])


def reference_samples(case: Case, folders: dict[str, Path], numbers: list[int]) -> list[ReferenceSample]:
    teacher, student = (load_processor(folders[kind]) for kind in case["pair"])
    source = DataSource(path=folders["data"], images=folders["data"].parent / "images")
    index = build_index(DataConfig(sources=(source,)), {"teacher": teacher, "student": student})
    return [
        ReferenceSample(teacher=conversation(teacher, index, i), student=conversation(student, index, i))
        for i in numbers
    ]


def conversation(processor: ModelProcessor, index: SampleIndex, number: int) -> RenderedConversation:
    rendered = processor.render(index[number], index.facts[number].image_sizes)
    vision = processor.pixels([Image.open(path) for path in index[number].images])
    return RenderedConversation(
        input_ids=rendered.input_ids,
        answer_spans=rendered.answer_spans,
        pixel_values=vision.pixel_values if vision else None,
        image_grid_thw=vision.image_grid_thw if vision else None,
    )
