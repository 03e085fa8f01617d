"""Flops of the student side against those that torch counts while the true module runs, in every stage."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from genrecal_mcore.config import RunConfig
from genrecal_mcore.planning import count_models, models_in_folders
from genrecal_mcore.planning.costs import Op, flops_of, total
from genrecal_mcore.planning.on_meta import student_module_on_meta
from genrecal_mcore.planning.student_costs import step_cost, student_side, unit_cost, unit_traffic
from genrecal_mcore.planning.workload import PairedSize, SampleSize, UnitSize
from genrecal_mcore.training.student_assembly import build_student_module, shard_
from genrecal_mcore.training.student_module import StudentModule
from tests.helpers.collective_bytes import CollectiveBytes
from tests.helpers.counted_flops import counted_flops
from tests.helpers.planned import run_of_stage
from tests.helpers.rank_pool import RankPool
from tests.helpers.student_units import text_unit
from tests.helpers.tiny_models import make_tiny_model

KINDS = ("qwen2_vl_tied", "internvl_llama", "internvl_qwen2")
NUM_SAMPLES, NUM_TOKENS = 3, 19
CASES = {
    "stage1": {"stage": 1},
    "stage1-kept": {"stage": 1, "train": {"reshard_after_forward": False}},
    "stage1-no-regularizer": {"stage": 1, "recalibrator": {"regularizer": False}},
    "stage1-own-answers": {
        "stage": 1,
        "recalibrator": {"answer_input": "embeddings", "student_answers": True},
    },
    "stage2": {"stage": 2},
    "stage2-body": {"stage": 2, "student": {"lora": None}},
    "stage2-body-keeps": {
        "stage": 2,
        "student": {"lora": None},
        "train": {"gradient_checkpointing": False},
    },
    "stage2-frozen-recalibrator": {"stage": 2, "recalibrator": {"learns_in_stage_2": False}},
    "stage2-keeps": {"stage": 2, "train": {"gradient_checkpointing": False}},
    "stage2-whole": {"stage": 2, "train": {"reshard_after_forward": False}},
    "kl": {"stage": 2, "method": "kl"},
    "reverse-kl-answers": {"stage": 2, "method": "reverse_kl", "distillation": {"positions": "answers"}},
    "stage3": {"stage": 3},
    "stage3-kept": {"stage": 3, "train": {"reshard_after_forward": False}},
    "stage3-keeps": {"stage": 3, "train": {"gradient_checkpointing": False}},
    "stage3-reduces-each": {"stage": 3, "train": {"accumulation_steps": 2, "reduce_every_microbatch": True}},
}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {kind: make_tiny_model(root / kind, kind, seed=9) for kind in KINDS}


def run_of(case: dict[str, Any], folders: dict[str, Path]) -> RunConfig:
    sections = {name: values for name, values in case.items() if name != "stage"}
    sections["train"] = {"micro_batch_size": NUM_SAMPLES, "accumulation_steps": 1} | sections.get("train", {})
    return run_of_stage(folders, case["stage"], **sections)


def text_size() -> UnitSize:
    """Return the size of `text_unit`: answers from the third token on."""
    size = SampleSize(tokens=NUM_TOKENS, answer_tokens=NUM_TOKENS - 2)
    return UnitSize(samples=(PairedSize(teacher=size, student=size),) * NUM_SAMPLES)


def module_of(config: RunConfig) -> StudentModule:
    module = student_module_on_meta(config, models_in_folders(config)).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.zero_()
    return module


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_of_text_has_the_flops_that_torch_counts(
    kind: str, case: dict[str, Any], students: dict[str, Path], tiny_folders: dict[str, Path]
) -> None:
    config = run_of(case, {**tiny_folders, "student": students[kind]})
    module = module_of(config)
    unit = text_unit(config, module, num_tokens=NUM_TOKENS)
    with counted_flops() as counter:
        module(unit)[0].backward()
    side = student_side(config, count_models(config, models_in_folders(config)))
    assert flops_of(unit_cost(side, text_size())) == counter.get_total_flops()


def collective_bytes(raw: dict[str, Any]) -> tuple[int, int, int]:
    """Return what FSDP gathers and reduces in one microbatch that is the step's last."""
    config = RunConfig.model_validate(raw)
    module = shard_(build_student_module(config, device=torch.device("cpu")), config, dist.group.WORLD)
    unit = text_unit(config, module, num_tokens=NUM_TOKENS)
    with CollectiveBytes() as counter:
        module(unit)[0].backward()
    return counter.gathered, counter.scattered, counter.calls


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fsdp_moves_as_many_bytes_as_counted(
    case: dict[str, Any], rank_pool: RankPool, tiny_folders: dict[str, Path]
) -> None:
    config = run_of(case, tiny_folders)
    gathered, reduced, calls = rank_pool.run(collective_bytes, 2, config.model_dump())[0]
    side = student_side(config, count_models(config, models_in_folders(config)))
    # Of what is whole in the end a rank of two receives, or sends, half.
    unit, step = unit_traffic(side, dp=2), step_cost(side, dp=2)
    assert (Op.REDUCTION in unit) == config.train.reduce_every_microbatch
    moved, norm_and_metrics = total(unit, step), 2
    assert (moved[Op.GATHERS], moved[Op.REDUCTION]) == (gathered / 2, reduced / 2)
    assert moved[Op.COLLECTIVE_CALLS] == calls + norm_and_metrics
