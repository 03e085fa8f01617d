"""Stages 1, 2, 3 and the SFT twin on real ranks, what each leaves behind, and what is exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from genrecal_mcore.cli.evaluate import student_folder
from genrecal_mcore.data import Ranks
from genrecal_mcore.models import load_student
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.training import export_student, exported_student
from genrecal_mcore.training.checkpoint import latest_checkpoint, read_model_tensors
from genrecal_mcore.training.student_assembly import apply_result, recalibrator_result
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import train_run

pytestmark = pytest.mark.distributed

STEPS = 3
RTOL_BFLOAT16 = 0.02  # worst seen 4.0e-3
RUNS = {
    "stage1": {"stage": 1},
    "stage2": {"stage": 2, "init_from": "stage1"},
    "stage3": {"stage": 3, "init_from": "stage2"},
    "sft_stage2": {"stage": 2, "method": "sft"},
    "sft_stage3": {"stage": 3, "method": "sft", "init_from": "sft_stage2"},
}


def run_all(folders: dict[str, Path], rank_pool: RankPool, root: Path, *, dtype: str) -> dict[str, Path]:
    for name, fields in RUNS.items():
        config = raw_config(folders, root / name, **fields)
        config["train"] |= {"steps": STEPS, "lr": 1e-2, "dtype": dtype}
        if "init_from" in fields:
            config["init_from"] = root / fields["init_from"]
        has_teacher = name in ("stage1", "stage2")
        if not has_teacher:
            config["teacher"] = None
        config["mesh"] = {"teacher": {"pp": 2} if has_teacher else None, "student": {"dp": 1 + has_teacher}}
        rank_pool.run(train_run, 4 if has_teacher else 1, config)
    return {name: root / name for name in RUNS}


@pytest.fixture(scope="module")
def runs(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    return run_all(tiny_folders, rank_pool, tmp_path_factory.mktemp("runs"), dtype="float32")


@pytest.fixture(scope="module")
def exported(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exported")
    for name, run in runs.items():
        export_student(run, root / name)
    return {name: root / name for name in runs}


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run / "metrics.jsonl")


TERMS_OF_RUN = {
    "stage1": {"ce_recal", "kl_recal", "ce_reg", "kl_reg"},
    "stage2": {"ce_recal", "kl_recal", "ce_student"},
    "stage3": {"ce_student"},
    "sft_stage2": {"ce_student"},
    "sft_stage3": {"ce_student"},
}


@pytest.mark.parametrize("name", list(RUNS))
def test_each_run_has_its_own_losses_and_their_sum(name: str, runs: dict[str, Path]) -> None:
    whole = {"ce_recal", "kl_recal", "ce_reg", "kl_reg", "ce_student"}
    lines = metrics_of(runs[name])
    assert len(lines) == STEPS
    for line in lines:
        assert {term for term in whole if line[term] is not None} == TERMS_OF_RUN[name]
        assert line["loss"] == pytest.approx(sum(line[term] for term in TERMS_OF_RUN[name]))
        assert (line["bytes_received"] is None) == (name not in ("stage1", "stage2"))
        assert line["grad_norm"] > 0


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("stage1", {"recalibrator"}),
        ("stage2", {"recalibrator", "student.model.language_model"}),
        ("stage3", {"student.model.language_model", "student.model.visual.merger", "student.lm_head"}),
    ],
)
def test_a_checkpoint_holds_what_learns_and_nothing_else(
    name: str, prefixes: set[str], runs: dict[str, Path]
) -> None:
    checkpoint = latest_checkpoint(runs[name])
    assert checkpoint is not None
    names = read_model_tensors(checkpoint, "").keys()
    assert all(any(tensor.startswith(prefix) for prefix in prefixes) for tensor in names)
    assert all(any(tensor.startswith(prefix) for tensor in names) for prefix in prefixes)
    if name == "stage2":
        assert all("lora_" in tensor for tensor in names if tensor.startswith("student."))


def test_stage_1_leaves_the_student_as_it_was(
    tiny_folders: dict[str, Path], exported: dict[str, Path]
) -> None:
    assert changed_tensors(tiny_folders, exported["stage1"]) == set()


@pytest.mark.parametrize("name", ["stage2", "sft_stage2"])
def test_stage_2_changes_the_language_bodys_linears_alone(
    name: str, tiny_folders: dict[str, Path], exported: dict[str, Path]
) -> None:
    changed = changed_tensors(tiny_folders, exported[name])
    assert {tensor.rpartition(".")[0].rpartition(".")[2] for tensor in changed} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert all(tensor.startswith("model.layers.") for tensor in changed)


@pytest.mark.parametrize("name", ["stage3", "sft_stage3"])
def test_stage_3_changes_all_but_the_vision_encoder(
    name: str, tiny_folders: dict[str, Path], exported: dict[str, Path]
) -> None:
    changed = changed_tensors(tiny_folders, exported[name])
    encoder = ("visual.blocks.", "visual.patch_embed.")
    assert not any(tensor.startswith(encoder) for tensor in changed)
    unchanged = load_file(tiny_folders["student"] / "model.safetensors").keys() - changed
    assert all(tensor.startswith(encoder) for tensor in unchanged)


def changed_tensors(folders: dict[str, Path], export: Path) -> set[str]:
    before = load_file(folders["student"] / "model.safetensors")
    after = load_file(export / "student" / "model.safetensors")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_exported_student_computes_what_the_run_trained(
    runs: dict[str, Path], exported: dict[str, Path], tiny_folders: dict[str, Path]
) -> None:
    trained = load_student(tiny_folders["student"], dtype=torch.float32)
    apply_result(trained, runs["stage3"])
    loaded = AutoModelForImageTextToText.from_pretrained(exported["stage3"] / "student")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(loaded(ids).logits, trained(ids).logits, rtol=0, atol=0)


def test_an_export_is_whole_and_holds_no_trace_of_the_adapters(
    tiny_folders: dict[str, Path], exported: dict[str, Path]
) -> None:
    names = {path.name for path in tiny_folders["student"].iterdir()}
    assert {path.name for path in (exported["stage2"] / "student").iterdir()} == names
    config = json.loads((exported["stage2"] / "student" / "config.json").read_text())
    assert config == json.loads((tiny_folders["student"] / "config.json").read_text())


def test_the_recalibrator_is_exported_under_the_papers_names(
    runs: dict[str, Path], exported: dict[str, Path]
) -> None:
    tensors = load_file(exported["stage3"] / "recalibrator.safetensors")
    parts = {name.partition(".")[0] for name in tensors}
    assert parts == {"rec_proj_pre", "rec_body", "rec_proj_post", "rec_norm"}
    assert {name.split(".")[2] for name in tensors if name.startswith("rec_body.layers.")} == {"0", "1"}
    expected = recalibrator_result(runs["stage2"])
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert not (exported["sft_stage3"] / "recalibrator.safetensors").exists()


def test_an_export_keeps_the_dtype_of_the_files(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    student.mkdir()
    for path in tiny_folders["student"].iterdir():
        (student / path.name).write_bytes(path.read_bytes())
    tensors = load_file(student / "model.safetensors")
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(halves, student / "model.safetensors", metadata={"format": "pt"})
    config = raw_config({**tiny_folders, "student": student}, tmp_path / "run", stage=2, method="sft")
    config |= {"teacher": None, "mesh": {"student": {"dp": 1}}}
    rank_pool.run(train_run, 1, config)
    export_student(tmp_path / "run", tmp_path / "out")
    after = load_file(tmp_path / "out" / "student" / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert all(torch.equal(after[name], halves[name]) for name in halves if name.startswith("visual."))


def test_an_export_overwrites_nothing_and_needs_a_run(
    runs: dict[str, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="exists; choose another --out"):
        export_student(runs["stage1"], exported["stage1"])
    with pytest.raises(ValueError, match="is not a run folder"):
        export_student(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bfloat16_runs_learn_what_float32_runs_learn(
    tiny_folders: dict[str, Path], rank_pool: RankPool, runs: dict[str, Path], tmp_path: Path
) -> None:
    rounded = run_all(tiny_folders, rank_pool, tmp_path, dtype="bfloat16")
    for name in RUNS:
        first, exact = metrics_of(rounded[name])[0], metrics_of(runs[name])[0]
        if name in ("stage1", "sft_stage2"):  # later runs start from tensors that were rounded differently
            difference = abs(first["loss"] - exact["loss"])
            assert_relatively_close(
                difference, exact["loss"], RTOL_BFLOAT16, name="bfloat16 losses of step 0", where=name
            )
        checkpoint = latest_checkpoint(rounded[name])
        assert checkpoint is not None
        kept = read_model_tensors(checkpoint, "")
        assert {tensor.dtype for tensor in kept.values()} == {torch.float32}


def test_a_runs_student_is_exported_once_for_its_newest_checkpoint(
    runs: dict[str, Path], exported: dict[str, Path]
) -> None:
    folder = exported_student(runs["stage2"])
    assert folder.parent.name == f"step_{STEPS:08d}"
    weights = folder / "model.safetensors"
    assert weights.read_bytes() == (exported["stage2"] / "student" / "model.safetensors").read_bytes()
    written = weights.stat().st_mtime_ns
    assert student_folder(runs["stage2"], Ranks()) == folder
    assert weights.stat().st_mtime_ns == written
    assert student_folder(folder, Ranks()) == folder
