"""The gates of `verify.py`: every family passes them, and a table that is wrong does not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_tools.verification import gates
from checkpoint_tools.verification.activations import activations_of, first_difference
from checkpoint_tools.verification.names_and_shapes import check_names_and_shapes
from checkpoint_tools.verification.tiny import original_model, randomize, tiny_model, write_published
from genrecal_mcore.layouts import internvl_chat, open_checkpoint, rows
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS
from genrecal_mcore.native import load_native_model

pytestmark = pytest.mark.families


@pytest.fixture(scope="module")
def tinies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, gates.TinyFamily]:
    root = tmp_path_factory.mktemp("gates")
    return {
        name: gates.make_tiny_family(name, root / str(seed), seed=seed)
        for seed, name in enumerate(gates.TINY_MODELS)
    }


@pytest.mark.parametrize("name", list(PUBLISHED_MODELS))
def test_names_and_shapes_fit_at_full_size(name: str) -> None:
    outcome = check_names_and_shapes(name)
    assert outcome.passed, outcome.detail


def test_eight_published_parameter_counts_are_known_to_the_last_digit() -> None:
    known = [name for name, model in PUBLISHED_MODELS.items() if model.num_parameters]
    assert len(known) == 8
    assert all("as published" in check_names_and_shapes(name).detail for name in known)


@pytest.mark.parametrize("name", gates.TINY_MODELS)
def test_every_tensor_comes_back_bit_by_bit(
    name: str, tinies: dict[str, gates.TinyFamily], tmp_path: Path
) -> None:
    for outcome in gates.check_round_trips(tinies[name], tmp_path):
        assert outcome.passed, outcome.detail


@pytest.mark.parametrize("name", gates.TINY_MODELS)
def test_a_student_computes_what_the_published_module_does(
    name: str, tinies: dict[str, gates.TinyFamily]
) -> None:
    outcome = gates.check_student_logits(tinies[name])
    assert outcome.passed, outcome.detail


@pytest.mark.distributed
@pytest.mark.parametrize(
    "mesh", [gates.ONE_RANK, *gates.L3_MESHES], ids=lambda mesh: f"tp{mesh.tp}-pp{mesh.pp}"
)
def test_a_teacher_computes_what_the_published_module_does(
    mesh: Any, tinies: dict[str, gates.TinyFamily]
) -> None:
    for outcome in gates.check_teacher_logits("L3", list(tinies.values()), (mesh,)):
        assert outcome.passed, (outcome.model, outcome.detail)


def test_a_wrong_order_of_query_key_and_value_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split and join agree with each other, so the round trip passes; the logits do not."""

    def swapped(tensor: torch.Tensor, config: Any) -> list[torch.Tensor]:
        query, key, value = rows.split_grouped_qkv(tensor, config)
        return [query, value, key]

    def joined(tensors: Any, config: Any) -> torch.Tensor:
        query, key, value = tensors
        return rows.join_grouped_qkv([query, value, key], config)

    table = _replaced(internvl_chat.INTERNLM2_BODY, "attention.wqkv", split=swapped, join=joined)
    monkeypatch.setattr(internvl_chat, "INTERNLM2_BODY", table)
    tiny = gates.make_tiny_family("InternVL2.5-2B", tmp_path, seed=0)
    assert all(outcome.passed for outcome in gates.check_round_trips(tiny, tmp_path))
    assert not gates.check_student_logits(tiny).passed


def _replaced(table: tuple[rows.Row, ...], name: str, **changes: Callable[..., Any]) -> tuple[rows.Row, ...]:
    return tuple(
        rows.Row(row.published, row.native, **changes) if name in row.published else row for row in table
    )


def test_a_tensor_that_the_table_forgets_fails_the_first_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful = tuple(row for row in internvl_chat.VISION if "ls2" not in row.published)
    monkeypatch.setattr(internvl_chat, "VISION", forgetful)
    outcome = check_names_and_shapes("InternVL2.5-78B")
    assert not outcome.passed
    assert "45 missing" in outcome.detail and "vision_model.encoder.layers.0.ls2" in outcome.detail


def test_the_first_layer_that_differs_is_named(tinies: dict[str, gates.TinyFamily]) -> None:
    tiny = tinies["InternVL2-76B"]
    expected = activations_of(tiny.original, tiny.probe)
    student = load_native_model(tiny.published, dtype=torch.float32).eval()
    with torch.no_grad():
        student.model.language_model.layers[2].mlp.up_proj.weight.mul_(1.5)
    found = activations_of(student, tiny.probe)
    assert first_difference(expected, found, min_cosine=gates.MIN_COSINE).startswith(
        "first differs at layer 2"
    )


def test_dummy_heads_are_left_out_where_they_are_zero_and_kept_where_one_is_not(
    tinies: dict[str, gates.TinyFamily],
) -> None:
    without = open_checkpoint(tinies["NVLM-D-72B"].published)
    kept = open_checkpoint(tinies[gates.KEPT_DUMMIES].published)
    name = "model.vision_tower.encoder.layer.1.attention.q_proj.weight"
    assert (without.layout.name, without.shape(name)) == ("NVLM_D", (24, 24))
    assert (kept.layout.name, kept.shape(name)) == ("NVLM_D_dummy_heads", (80, 24))


@pytest.mark.parametrize("part", ["qkv", "proj", "q_norm", "k_norm"])
def test_one_dummy_weight_that_is_not_zero_keeps_the_heads(part: str, tmp_path: Path) -> None:
    model = tiny_model("NVLM-D-72B")
    folder = write_published(tmp_path / "nvlm", model, randomize(original_model(model), seed=1))
    tensors = load_file(folder / "model.safetensors")
    tensors[f"vision_model.encoder.layers.1.attn.{part}.weight"][..., -1] = 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(folder).layout.name == "NVLM_D_dummy_heads"


def test_a_config_whose_tiles_would_be_transposed_is_refused(tmp_path: Path) -> None:
    model = tiny_model("NVLM-D-72B")
    folder = write_published(tmp_path / "nvlm", model, randomize(original_model(model), seed=1))
    (folder / "config.json").write_text(json.dumps(model.config | {"ps_version": "v1"}))
    with pytest.raises(ValueError, match="ps_version 'v1' is not supported; expected 'v2'"):
        open_checkpoint(folder)
