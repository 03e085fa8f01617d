"""What of the student side is computed again, and what keeps nothing at all."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from genrecal_mcore.models import vision_encoder
from genrecal_mcore.models.vision import image_features
from genrecal_mcore.planning.shapes import vision_shape
from genrecal_mcore.training.student_assembly import build_student_module
from tests.helpers.live_memory import LiveMemory, tensors_of
from tests.helpers.planned import run_of_stage
from tests.helpers.student_units import text_unit
from tests.helpers.tiny_models import make_tiny_model

CPU = torch.device("cpu")
KINDS = ("qwen2_vl", "internvl_llama")


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {kind: make_tiny_model(root / kind, kind, seed=9) for kind in KINDS}


def outputs_with_a_graph(module: nn.Module) -> list[str]:
    """Return the list that the names of submodules will be in whose output a backward pass would reach."""
    found: list[str] = []

    def look(name: str, output: object) -> None:
        if any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in tree_leaves(output)):
            found.append(name)

    for name, child in module.named_modules():
        child.register_forward_hook(lambda _, __, output, name=name: look(name, output))
    return found


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_vision_encoder_keeps_nothing_for_a_backward_pass(
    kind: str, stage: int, students: dict[str, Path], tiny_folders: dict[str, Path]
) -> None:
    config = run_of_stage({**tiny_folders, "student": students[kind]}, stage)
    student = build_student_module(config, device=CPU).student
    found = [outputs_with_a_graph(part) for part in vision_encoder(student)]
    shape = vision_shape(student.config)
    if shape.tokens_per_tile:
        features = image_features(student.model, torch.randn(2, 3, 24, 24), None)
    else:
        grid = torch.tensor([[1, 4, 4]])
        features = image_features(student.model, torch.randn(16, shape.pixels_per_patch), grid)
    assert found == [[]] * len(found)
    assert features.requires_grad == (stage == 3)  # of the projector, which learns there


def gradients_and_kept_bytes(
    folders: dict[str, Path], **changes: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], int]:
    """Return the gradients of one microbatch, by name, and the bytes alive before its backward pass."""
    lora = {"r": 3, "alpha": 6, "dropout": 0.3}
    config = run_of_stage(folders, 2, student={"lora": lora}, **changes)
    module = build_student_module(config, device=CPU)
    torch.manual_seed(0)  # of the payload and of dropout
    unit = text_unit(config, module, num_tokens=29)
    with LiveMemory(tensors_of(module)) as memory:
        loss, _ = module(unit)
        kept = memory.live_bytes
    loss.backward()
    named = module.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}, kept


def test_layers_that_are_computed_again_give_the_same_gradients_and_keep_less(
    tiny_folders: dict[str, Path],
) -> None:
    settings = [{"gradient_checkpointing": False}, *({"checkpointed_layers": n} for n in (1, 3)), {}]
    (expected, *others), kept = zip(
        *(gradients_and_kept_bytes(tiny_folders, train=train) for train in settings), strict=True
    )
    assert any("lora_" in name for name in expected) and any("rec_body" in name for name in expected)
    for found in others:
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)
    assert all(more > less for more, less in pairwise(kept))


def test_a_frozen_recalibrator_teaches_the_student_as_one_that_learns(tiny_folders: dict[str, Path]) -> None:
    learning, _ = gradients_and_kept_bytes(tiny_folders)
    frozen, _ = gradients_and_kept_bytes(tiny_folders, recalibrator={"learns_in_stage_2": False})
    students = {name: gradient for name, gradient in learning.items() if name.startswith("student.")}
    assert len(learning) > len(students) > 0
    torch.testing.assert_close(frozen, students, rtol=0.0, atol=0.0)
