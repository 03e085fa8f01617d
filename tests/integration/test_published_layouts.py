"""InternVL as its makers publish it: every body and tower, as a teacher and as a student, there and back."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from checkpoint_tools.conversion import Options, convert_to_hf, convert_to_mcore
from genrecal_mcore.config import Family, family_of_hf_folder
from genrecal_mcore.data import load_processor
from genrecal_mcore.models import load_student
from genrecal_mcore.training import export_student
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_run import train_run

ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
}
INTERNLM2_NAMES = {
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
VISION_NAMES = {
    "attention.projection_layer": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}
EMBEDDING_NAMES = {
    "cls_token": "class_embedding",
    "position_embeddings": "position_embedding",
    "patch_embeddings.projection.weight": "patch_embedding.weight",
    "patch_embeddings.projection.bias": "patch_embedding.bias",
}
PROJECTOR_NAMES = {"layer_norm": "0", "linear_1": "1", "linear_2": "3"}


def published_tensors_by_hand(native: Path, body: str) -> dict[str, torch.Tensor]:
    """Name and pack a native model's tensors as the makers do, without the package's tables."""
    model = AutoModelForImageTextToText.from_pretrained(native)
    tensors, out = model.state_dict(), {}
    heads, groups = (
        model.config.text_config.num_attention_heads,
        model.config.text_config.num_key_value_heads,
    )
    for name, tensor in tensors.items():
        part = name.rpartition(".")[2]
        if ".q_proj." in name:
            key, value = (tensors[name.replace("q_proj", other)] for other in ("k_proj", "v_proj"))
            if "vision_tower" in name:
                number = name.split(".")[4]
                out[f"vision_model.encoder.layers.{number}.attn.qkv.{part}"] = torch.cat([tensor, key, value])
            elif body == "internlm2":
                number, size = name.split(".")[3], tensor.shape[0] // heads
                per_group = heads // groups
                blocks = []
                for g in range(groups):
                    blocks.append(tensor[g * per_group * size : (g + 1) * per_group * size])
                    blocks += [key[g * size : (g + 1) * size], value[g * size : (g + 1) * size]]
                out[f"language_model.model.layers.{number}.attention.wqkv.{part}"] = torch.cat(blocks)
            else:
                out[published_name(name, body)] = tensor
        elif ".k_proj." in name or ".v_proj." in name:
            if "vision_tower" not in name and body != "internlm2":
                out[published_name(name, body)] = tensor
        else:
            out[published_name(name, body)] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in out.items()}


def published_name(name: str, body: str) -> str:
    if name.startswith("model.vision_tower.embeddings."):
        return (
            "vision_model.embeddings." + EMBEDDING_NAMES[name.removeprefix("model.vision_tower.embeddings.")]
        )
    if name.startswith("model.vision_tower."):
        for ours, theirs in VISION_NAMES.items():
            name = name.replace(ours, theirs)
        return name.replace("model.vision_tower.encoder.layer.", "vision_model.encoder.layers.")
    if name.startswith("model.multi_modal_projector."):
        module, part = name.split(".")[2:]
        return f"mlp1.{PROJECTOR_NAMES[module]}.{part}"
    if body != "internlm2":
        name = name.replace("lm_head", "language_model.lm_head")
        return name.replace("model.language_model.", "language_model.model.")
    for ours, theirs in INTERNLM2_NAMES.items():
        name = name.replace(ours, theirs)
    name = name.replace("lm_head", "language_model.output")
    name = name.replace("model.language_model.", "language_model.model.")
    return name.replace("embed_tokens", "tok_embeddings")


def published_config(native: Path, body: str) -> dict[str, Any]:
    config = json.loads((native / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    llm = {name: text[name] for name in text if name not in ("rope_parameters", "model_type", "layer_types")}
    llm |= {"architectures": [ARCHITECTURES[body]], "rope_theta": text["rope_parameters"]["rope_theta"]}
    if body == "internlm2":
        llm |= {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "bias": False}
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": "internvl2_5",
        "force_image_size": 24,
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "max_dynamic_patch": 3,
        "ps_version": "v2",
        "select_layer": -1,
        "torch_dtype": "float32",
        "llm_config": llm,
        "vision_config": {
            "hidden_size": vision["hidden_size"],
            "intermediate_size": vision["intermediate_size"],
            "num_hidden_layers": vision["num_hidden_layers"],
            "num_attention_heads": vision["num_attention_heads"],
            "patch_size": 6,
            "qkv_bias": vision["attention_bias"],
            "qk_normalization": vision["use_qk_norm"],
            "norm_type": vision["norm_type"],
            "layer_norm_eps": vision["layer_norm_eps"],
            "hidden_act": vision["hidden_act"],
        },
    }


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("native")
    made = {body: make_tiny_model(root / body, f"internvl_{body}", seed=3) for body in ("qwen2", "llama")}
    return made | {"internlm2": made["llama"]}


@pytest.fixture(scope="module")
def published(native: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    for body, source in native.items():
        shutil.copytree(source, root / body, ignore=shutil.ignore_patterns("model.safetensors"))
        tensors = published_tensors_by_hand(source, body)
        save_file(tensors, root / body / "model.safetensors", metadata={"format": "pt"})
        (root / body / "config.json").write_text(json.dumps(published_config(source, body)))
    return {body: root / body for body in native}


@pytest.mark.parametrize("body", list(ARCHITECTURES))
def test_a_teacher_comes_back_bit_for_bit(body: str, published: dict[str, Path], tmp_path: Path) -> None:
    convert_to_mcore(published[body], tmp_path / "teacher", Options(verify=True))
    convert_to_hf(tmp_path / "teacher", tmp_path / "back", overwrite=False)
    before, after = (load_file(f / "model.safetensors") for f in (published[body], tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "back" / "config.json").read_text() == (published[body] / "config.json").read_text()


@pytest.mark.parametrize("body", list(ARCHITECTURES))
def test_a_teacher_equals_the_one_converted_from_the_native_layout(
    body: str, native: dict[str, Path], published: dict[str, Path], tmp_path: Path
) -> None:
    for name, source in (("a", published[body]), ("b", native[body])):
        convert_to_mcore(source, tmp_path / name)
    for part in ("vision", "head"):
        a, b = (load_file(tmp_path / name / part / "model.safetensors") for name in ("a", "b"))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    language = [(tmp_path / name / "language" / "__0_0.distcp").read_bytes() for name in ("a", "b")]
    assert language[0] == language[1]


@pytest.mark.parametrize("body", list(ARCHITECTURES))
def test_a_student_loads_as_its_native_class(
    body: str, native: dict[str, Path], published: dict[str, Path]
) -> None:
    assert family_of_hf_folder(published[body]) == Family.INTERNVL
    expected = AutoModelForImageTextToText.from_pretrained(native[body], dtype=torch.float64)
    found = load_student(published[body], dtype=torch.float64)
    ids = torch.arange(30)[None]
    assert torch.equal(found(ids).logits, expected(ids).logits)


def test_its_images_are_cut_as_the_native_ones_are(
    native: dict[str, Path], published: dict[str, Path]
) -> None:
    ours, theirs = load_processor(published["qwen2"]), load_processor(native["qwen2"])
    for size in ((48, 24), (30, 50), (24, 24), (640, 90)):
        counts = [
            processor.record.image_tokens(processor.image_processor, processor.hf_config, size)
            for processor in (ours, theirs)
        ]
        assert counts[0] == counts[1]
    assert ours.chat.system is not None and theirs.chat.system is None


def test_a_template_that_is_not_known_is_refused(published: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(published["qwen2"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"template": "phi3-chat"}))
    with pytest.raises(ValueError, match="'phi3-chat' is not supported; expected one of internvl2_5"):
        load_processor(folder)


@pytest.mark.distributed
@pytest.mark.parametrize("body", ["qwen2", "internlm2"])
def test_a_trained_student_is_exported_in_the_layout_that_it_came_in(
    body: str, published: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    folders = {
        "teacher": tmp_path / "teacher",
        "student": published[body],
        "data": make_tiny_dataset(tmp_path / "data", 8, seed=2),
    }
    convert_to_mcore(published["llama"], folders["teacher"])
    config = raw_config(folders, tmp_path / "stage1")
    config["mesh"] = {"teacher": {"tp": 2}, "student": {"dp": 1}}
    rank_pool.run(train_run, 3, config)
    second = raw_config(folders, tmp_path / "stage2", stage=2, init_from=tmp_path / "stage1")
    second |= {"mesh": config["mesh"]}
    rank_pool.run(train_run, 3, second)
    export_student(tmp_path / "stage2", tmp_path / "out")
    before = load_file(published[body] / "model.safetensors")
    after = load_file(tmp_path / "out" / "student" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("language_model.model.layers.") for name in changed)
