"""What of the student side is computed again, and what keeps nothing at all."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from genrecal_mcore.models import vision_encoder
from genrecal_mcore.models.vision import image_features
from genrecal_mcore.planning.shapes import vision_shape
from genrecal_mcore.training.student_assembly import build_student_module
from tests.helpers.planned import run_of_stage
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
