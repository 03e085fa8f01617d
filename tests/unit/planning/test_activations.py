"""Formulas against what autograd saves, tensor by tensor, and estimates against what is alive at once."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.config import LoraConfig, RunConfig, load_teacher_manifest
from genrecal_mcore.models import (
    Packing,
    Recalibrator,
    add_lora,
    load_student,
    load_teacher_stage,
    use_packed_attention,
)
from genrecal_mcore.models.vision import image_features
from genrecal_mcore.parallel import Layout, MeshSpec, build_topology, install_cpu_shims
from genrecal_mcore.planning import Part, count_models, models_in_folders
from genrecal_mcore.planning.activations import (
    forward_bytes_per_token,
    largest_vision_share,
    saved_bytes_per_token,
    vision_bytes_per_token,
)
from genrecal_mcore.planning.on_meta import student_module_on_meta
from genrecal_mcore.planning.shapes import shape_of_spec, shape_of_text_config, vision_shape
from genrecal_mcore.planning.student_memory import student_kind
from tests.helpers.live_memory import LiveMemory, drop_gradients, tensors_of
from tests.helpers.planned import published_tower, run_of_stage
from tests.helpers.rank_pool import RankPool
from tests.helpers.student_units import text_unit
from tests.helpers.tiny_models import make_tiny_model

LEAST_SHARE_OF_ESTIMATE, MOST_OF_ESTIMATE = 0.6, 1.1  # seen 0.67 to 1.09
KINDS = ("qwen2_vl", "internvl_llama", "internvl_qwen2")
DTYPES = {2: torch.bfloat16, 4: torch.float32}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("students")
    return {kind: make_tiny_model(root / kind, kind, seed=3) for kind in KINDS}


def saved_bytes(module: nn.Module, hidden_states: torch.Tensor, rotary: nn.Module) -> int:
    """Return the bytes that a decoder layer's forward pass keeps, parameters and positions left out."""
    positions = torch.arange(hidden_states.shape[1])[None]
    if "Qwen2VL" in type(rotary).__name__:
        positions = positions.expand(3, *positions.shape)
    position_embeddings = rotary(hidden_states, positions)
    known = [*module.parameters(), *position_embeddings, hidden_states]
    storages = {tensor.untyped_storage().data_ptr() for tensor in known}
    saved: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        # An input of its own: in fp32 the first norm keeps it as it is.
        packing = Packing.of((0, hidden_states.shape[1]), hidden_states.device)
        out = module(hidden_states + 0, position_embeddings=position_embeddings, packing=packing)
    del out
    return sum(saved.values())


def body_and_input(student: PreTrainedModel, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    body = student.model.language_model.to(dtype).train()
    use_packed_attention(body.config)
    hidden_size = student.config.get_text_config().hidden_size
    return body, torch.randn(1, 21, hidden_size, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("learns", ["nothing", "lora", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_saves_the_counted_bytes(
    kind: str, learns: str, element_size: int, students: dict[str, Path]
) -> None:
    dtype, lora = DTYPES[element_size], LoraConfig(r=5, alpha=5, dropout=0.0)
    student = load_student(students[kind], dtype=dtype)
    if learns == "lora":
        add_lora(student, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, seed=0)
    body, hidden_states = body_and_input(student, dtype)
    body.requires_grad_(learns == "all")
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(learns == "all" or "lora_" in name)
    shape = shape_of_text_config(student.config.get_text_config())
    counted = saved_bytes_per_token(shape, element_size=element_size, learns=learns, lora=lora)
    assert saved_bytes(body.layers[1], hidden_states, body.rotary_emb) == 21 * counted


def test_dropout_adds_a_copy_and_a_mask_of_each_adapted_input(students: dict[str, Path]) -> None:
    student = load_student(students["qwen2_vl"], dtype=torch.float32)
    shape = shape_of_text_config(student.config.get_text_config())
    inputs = 5 * shape.hidden_size + shape.num_heads * shape.head_dim + shape.ffn_hidden_size
    lora = LoraConfig(r=5, alpha=5, dropout=0.1)
    add_lora(student, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, seed=0)
    body, hidden_states = body_and_input(student, torch.float32)
    counted = saved_bytes_per_token(shape, element_size=4, learns="lora", lora=lora)
    # A CPU keeps the mask in the input's dtype, CUDA in bytes.
    found = saved_bytes(body.layers[1], hidden_states, body.rotary_emb)
    assert found == 21 * (counted + 3 * inputs)


@pytest.mark.parametrize("element_size", [2, 4])
def test_a_layer_of_the_recalibrator_saves_what_one_of_the_student_does(
    element_size: int, students: dict[str, Path]
) -> None:
    text_config = load_student(students["qwen2_vl"], dtype=torch.float32).config.get_text_config()
    recalibrator = Recalibrator(text_config, teacher_hidden_size=40, num_layers=2)
    body = recalibrator.rec_body.to(DTYPES[element_size])
    hidden_states = torch.randn(
        1, 21, text_config.hidden_size, dtype=DTYPES[element_size], requires_grad=True
    )
    counted = saved_bytes_per_token(
        shape_of_text_config(text_config), element_size=element_size, learns="all"
    )
    assert saved_bytes(body.layers[0], hidden_states, body.rotary_emb) == 21 * counted


NUM_TOKENS = 128


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]) -> dict[str, Path]:
    """Give a student whose activations outweigh what does not grow with tokens, and a converted teacher."""
    sizes = {"hidden_size": 96, "intermediate_size": 400, "num_hidden_layers": 6, "num_attention_heads": 4}
    student = make_tiny_model(tmp_path_factory.mktemp("wide") / "student", "qwen2_vl", seed=4, **sizes)
    return {**tiny_folders, "student": student}


def module_with_computed_dtypes(config: RunConfig) -> nn.Module:
    """Return the student module, every parameter in the run's dtype, as FSDP hands it to the layers."""
    module = student_module_on_meta(config, models_in_folders(config)).to_empty(device="cpu")
    for parameter in module.parameters():
        parameter.data = torch.empty_like(parameter, dtype=getattr(torch, config.train.dtype)).normal_(
            std=0.02
        )
    for buffer in module.buffers():
        buffer.zero_()
    return module


RECOMPUTATION = {
    "keeps": {"gradient_checkpointing": False},
    "checkpoints": {},
    "checkpoints 2 of 6": {"checkpointed_layers": 2},
    "checkpoints 5 of 6": {"checkpointed_layers": 5},
}
RUNS = {
    "stage 1": {"stage": 1},
    "stage 1 embeddings": {"stage": 1, "recalibrator": {"answer_input": "embeddings"}},
    "stage 2 own answers": {
        "stage": 2,
        "recalibrator": {"answer_input": "embeddings", "student_answers": True},
    },
    "kl": {"stage": 2, "method": "kl"},
    **{
        f"stage {stage} {name}": {"stage": stage, "train": train}
        for stage, (name, train) in product((2, 3), RECOMPUTATION.items())
    },
}


@pytest.mark.parametrize("run", list(RUNS))
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_estimate_is_above_what_a_student_rank_holds_and_not_far(
    dtype: str, run: str, folders: dict[str, Path]
) -> None:
    changes = dict(RUNS[run])
    changes["train"] = {"dtype": dtype, "micro_batch_size": 2, **changes.get("train", {})}
    sizes = {"data": {"max_tokens": NUM_TOKENS}, "loss": {"memory_budget_mib": 1}}
    config = run_of_stage(folders, **changes, **sizes)
    module = module_with_computed_dtypes(config)
    unit = text_unit(config, module, num_tokens=NUM_TOKENS)
    drop_gradients(module)
    known = [*tensors_of(module), *([] if unit.payload is None else [unit.payload])]
    with LiveMemory(known) as memory:
        module(unit)[0].backward()
    models = count_models(config, models_in_folders(config))
    parts = student_kind(config, MeshSpec(name="student"), models).parts
    bound = parts[Part.ACTIVATIONS] + parts[Part.LOSS]
    assert LEAST_SHARE_OF_ESTIMATE * parts[Part.ACTIVATIONS] < memory.peak_bytes <= bound


@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("name", ["Qwen2-VL-2B", "Qwen2.5-VL-7B", "InternVL2.5-1B"])
def test_the_estimate_of_a_vision_tower_is_near_what_it_holds(name: str, element_size: int) -> None:
    model = published_tower(name).to(DTYPES[element_size])
    shape = vision_shape(model.config)
    if shape.tokens_per_tile:
        pixels, grid, tokens = torch.randn(1, 3, 448, 448), None, shape.tokens_per_tile
    else:
        pixels, grid = torch.randn(16 * 16, shape.pixels_per_patch), torch.tensor([[1, 16, 16]])
        tokens = len(pixels) // shape.patches_per_token
    with torch.no_grad(), LiveMemory([*tensors_of(model), pixels]) as memory:
        image_features(model.model, pixels, grid)
    counted = tokens * vision_bytes_per_token(shape, element_size=element_size)
    assert LEAST_SHARE_OF_ESTIMATE < memory.peak_bytes / counted < MOST_OF_ESTIMATE


def test_whole_tiles_are_shared_out_and_whole_images_where_there_are_no_tiles() -> None:
    tiles = vision_shape(published_tower("InternVL2.5-1B").config)
    images = replace(tiles, tokens_per_tile=None)
    shares = [
        largest_vision_share(vision, unit_tokens=3 * 1024, max_tokens=1024, tp=2)
        for vision in (tiles, images)
    ]
    assert shares == [6 * 256, 2 * 1024]


def body_peak_bytes(folder: Path, degrees: dict[str, Any], num_tokens: int) -> int | None:
    """Return the most that is alive at once while a stage's layers run forward on this rank."""
    install_cpu_shims()
    mesh = MeshSpec(name="teacher", **degrees)
    layout = Layout(teacher=mesh, student=MeshSpec(name="student", rank_offset=mesh.size))
    topology = build_topology(layout, rank=dist.get_rank(), device=torch.device("cpu"), served_pairs=[])
    if not topology.is_teacher:
        return None
    stage = load_teacher_stage(folder, mesh, topology.teacher_groups, device=topology.device)
    local = num_tokens // mesh.tp if mesh.sequence_parallel else num_tokens
    hidden_states = torch.randn(local, 1, stage.body.config.hidden_size)
    with torch.no_grad(), LiveMemory([*tensors_of(stage), hidden_states]) as memory:
        packing = Packing.of((0, num_tokens), topology.device)
        stage.body(hidden_states, torch.arange(num_tokens)[None], packing)
    return memory.peak_bytes


@pytest.mark.distributed
@pytest.mark.parametrize(
    "degrees",
    [
        pytest.param({"tp": 1}, id="tp1"),
        pytest.param({"tp": 2}, id="tp2"),
        pytest.param({"tp": 2, "sequence_parallel": True}, id="tp2-sp"),
    ],
)
@pytest.mark.parametrize("ffn_hidden_size", [72, 480])
def test_the_estimate_of_the_teachers_layers_is_near_what_they_hold(
    ffn_hidden_size: int, degrees: dict[str, Any], rank_pool: RankPool, tmp_path: Path
) -> None:
    mesh = MeshSpec(name="teacher", **degrees)
    teacher = tmp_path / "teacher"
    sizes = {"hidden_size": 128, "intermediate_size": ffn_hidden_size}
    convert_to_mcore(make_tiny_model(tmp_path / "hf", "internvl_qwen2", seed=6, **sizes), teacher)
    measured = rank_pool.run(body_peak_bytes, mesh.size + 1, teacher, degrees, NUM_TOKENS)[0]
    shape = shape_of_spec(load_teacher_manifest(teacher).language)
    counted = NUM_TOKENS * forward_bytes_per_token(shape, element_size=4, tp=mesh.tp)
    assert LEAST_SHARE_OF_ESTIMATE < measured / counted < MOST_OF_ESTIMATE
