"""Hugging Face folder to teacher folder and back, with megatron and transformers as the judges."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from checkpoint_tools.conversion import (
    Options,
    convert_to_hf,
    convert_to_mcore,
    safetensors_reader,
    verify_round_trip,
)
from checkpoint_tools.engine import plan_conversion
from genrecal_mcore.config import Family, load_teacher_manifest, validate_teacher_folder
from genrecal_mcore.layouts import open_checkpoint
from genrecal_mcore.parallel import install_cpu_shims
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_models import make_tiny_model

KINDS = ["internvl_qwen2", "internvl_llama", "qwen2_vl", "qwen2_vl_tied", "qwen2_5_vl"]
FAMILY_OF_KIND = {kind: Family.QWEN2_VL if kind.startswith("qwen") else Family.INTERNVL for kind in KINDS}
FAMILY_OF_KIND["qwen2_5_vl"] = Family.QWEN2_5_VL
SPELLINGS = ["native_old", "native_new"]

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Make each tiny model in both spellings: as transformers writes it, and as it names its tensors."""
    root = tmp_path_factory.mktemp("sources")
    made = {}
    for seed, kind in enumerate(KINDS):
        old = made[kind, "native_old"] = make_tiny_model(root / f"{kind}_old", kind, seed=seed)
        new = made[kind, "native_new"] = root / f"{kind}_new"
        shutil.copytree(old, new)
        state = AutoModelForImageTextToText.from_pretrained(old).state_dict()
        if kind == "qwen2_vl_tied":
            del state["lm_head.weight"]
        save_file(state, new / "model.safetensors", metadata={"format": "pt"})
    return made


def tensors_in(folder: Path) -> Tensors:
    return {key: t for path in sorted(folder.glob("*.safetensors")) for key, t in load_file(path).items()}


def assert_bit_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def convert_there_and_back(source: Path, root: Path, *, dtype: str | None = None) -> tuple[Path, Path]:
    teacher, back = root / "teacher", root / "back"
    convert_to_mcore(source, teacher, Options(dtype=dtype))
    convert_to_hf(teacher, back, overwrite=False)
    return teacher, back


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_comes_back_bit_for_bit_under_its_own_keys(
    kind: str, spelling: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    source = sources[kind, spelling]
    teacher, back = convert_there_and_back(source, tmp_path)
    assert_bit_equal(tensors_in(back), tensors_in(source))
    manifest = validate_teacher_folder(teacher)
    assert (manifest.family, manifest.source_layout) == (FAMILY_OF_KIND[kind], spelling)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            assert (back / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_what_comes_back(
    kind: str, spelling: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    _, back = convert_there_and_back(sources[kind, spelling], tmp_path)
    model, info = AutoModelForImageTextToText.from_pretrained(back, output_loading_info=True)
    assert not any(info.values()), info
    expected = AutoModelForImageTextToText.from_pretrained(sources[kind, "native_old"])
    assert_bit_equal(model.state_dict(), expected.state_dict())


@pytest.mark.parametrize("kind", ["internvl_qwen2", "qwen2_vl_tied"])
def test_a_sharded_source_comes_back_whole(
    kind: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    source = sources[kind, "native_old"]
    sharded = tmp_path / "sharded"
    AutoModelForImageTextToText.from_pretrained(source).save_pretrained(sharded, max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    _, back = convert_there_and_back(sharded, tmp_path)
    assert_bit_equal(tensors_in(back), tensors_in(source))


def test_every_tensor_is_cast_to_the_dtype_asked_for(
    sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    source = sources["internvl_llama", "native_old"]
    teacher, back = convert_there_and_back(source, tmp_path, dtype="bfloat16")
    assert load_teacher_manifest(teacher).dtype == "bfloat16"
    assert_bit_equal(tensors_in(back), {key: t.bfloat16() for key, t in tensors_in(source).items()})


def test_a_bfloat16_source_stays_bfloat16(sources: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources["qwen2_vl", "native_old"], source)
    tensors = {key: tensor.bfloat16() for key, tensor in tensors_in(source).items()}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    teacher, back = convert_there_and_back(source, tmp_path)
    assert load_teacher_manifest(teacher).dtype == "bfloat16"
    assert_bit_equal(tensors_in(back), tensors)


def test_the_manifest_holds_the_sha256_of_every_file(
    sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    teacher, _ = convert_there_and_back(sources["qwen2_vl", "native_old"], tmp_path)
    files = [path for path in teacher.rglob("*") if path.is_file() and path.name != "teacher.json"]
    expected = {str(path.relative_to(teacher)): sha256(path.read_bytes()).hexdigest() for path in files}
    assert json.loads((teacher / "teacher.json").read_text())["digests"] == expected
    parts = {name.split("/")[0] for name in expected}
    assert parts == {"language", "vision", "head", "tokenizer"}


def test_a_tied_teacher_stores_its_embedding_as_its_head(
    sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    source = sources["qwen2_vl_tied", "native_old"]
    teacher, _ = convert_there_and_back(source, tmp_path)
    head = load_file(teacher / "head" / "model.safetensors")["weight"]
    assert torch.equal(head, tensors_in(source)["model.embed_tokens.weight"])


def test_a_converted_teacher_replaces_an_older_one_when_asked_to(
    sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "stale.txt").write_text("of an older conversion")
    source = sources["internvl_qwen2", "native_old"]
    convert_to_mcore(source, teacher, Options(verify=True, overwrite=True))
    assert not (teacher / "stale.txt").exists()
    assert validate_teacher_folder(teacher).verified == ("round_trip", "loads_at_tp1_pp1")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize("part", ["vision", "head"])
def test_verification_names_a_tensor_that_does_not_come_back(
    part: str, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    source = sources["internvl_llama", "native_old"]
    teacher, _ = convert_there_and_back(source, tmp_path)
    plan = plan_conversion(open_checkpoint(source))
    verify_round_trip(plan, teacher, torch.float32)
    stored = safetensors_reader(teacher / part)
    tensors = {key: stored.read(key) for key in stored.file_of}
    changed = sorted(tensors)[-1]
    tensors[changed].view(-1)[-1] += 1e-3
    save_file(tensors, teacher / part / "model.safetensors")
    expected_key = "language_model.lm_head.weight" if part == "head" else changed
    with pytest.raises(ValueError, match=f"tensor {expected_key} does not come back"):
        verify_round_trip(plan, teacher, torch.float32)


def load_by_megatron(folder: str) -> dict[str, np.ndarray]:
    from megatron.core import dist_checkpointing

    install_cpu_shims()
    return {key: tensor.numpy() for key, tensor in dist_checkpointing.load_plain_tensors(folder).items()}


@pytest.mark.distributed
def test_megatron_loads_the_language_body(
    rank_pool: RankPool, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    source = sources["internvl_llama", "native_old"]
    teacher, _ = convert_there_and_back(source, tmp_path)
    (found,) = rank_pool.run(load_by_megatron, 1, str(teacher / "language"))
    expected = tensors_in(source)
    layer, source_layer = "decoder.layers.3.", "language_model.model.layers.3."
    assert len(found) == 2 + 4 * 6
    for name, source_name in (
        ("embedding.word_embeddings.weight", "language_model.model.embed_tokens.weight"),
        ("decoder.final_layernorm.weight", "language_model.model.norm.weight"),
        (layer + "self_attention.linear_qkv.layer_norm_weight", source_layer + "input_layernorm.weight"),
        (layer + "mlp.linear_fc2.weight", source_layer + "mlp.down_proj.weight"),
    ):
        assert torch.equal(torch.from_numpy(found[name]), expected[source_name]), name
