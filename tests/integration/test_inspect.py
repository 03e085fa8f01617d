"""What `inspect.py` says about checkpoints, sound and damaged, and what a shell sees of it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from checkpoint_tools.conversion import Options, convert_to_mcore
from checkpoint_tools.inspect import show
from checkpoint_tools.inspection import Inspection, as_json, inspect_checkpoint, mesh_sizes
from genrecal_mcore.config import LanguageBodySpec, load_teacher_manifest
from genrecal_mcore.layouts import layout_named, open_checkpoint, published_tensors
from tests.helpers.tiny_models import TinyModelKind, make_tiny_model

SCRIPT = Path(__file__).parents[2] / "checkpoint_tools" / "inspect.py"
KINDS: tuple[TinyModelKind, ...] = get_args(TinyModelKind)
PARTS = ("vision", "language", "embedding", "head", "total")
BODY_SIZES = {
    "num_layers": 4,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {kind: make_tiny_model(root / kind, kind, seed=3) for kind in KINDS}


@pytest.fixture(scope="module")
def teachers(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    for kind, source in sources.items():
        convert_to_mcore(source, root / kind, Options(dtype="bfloat16", verify=True))
    return {kind: root / kind for kind in sources}


def parameters(folder: Path) -> dict[str, int]:
    """Count with transformers: what is shared is there once."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    counts = {
        "language": num_parameters(model.model.language_model) - embedding.numel(),
        "embedding": embedding.numel(),
        "head": 0 if head is embedding else head.numel(),
        "total": num_parameters(model),
    }
    return counts | {"vision": 2 * counts["total"] - sum(counts.values())}


def num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def counted(found: Inspection) -> dict[str, int]:
    return {part: found.parts[part]["parameters"] for part in PARTS}


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def run_inspect(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_checkpoint_has_the_parameters_of_its_class(kind: str, sources: dict[str, Path]) -> None:
    found = inspect_checkpoint(sources[kind])
    stored = load_file(sources[kind] / "model.safetensors")
    assert found.problems == ()
    assert counted(found) == parameters(sources[kind])
    assert found.dtypes == {"float32": len(stored)}
    assert found.parts["total"]["tensors"] == len(stored)
    assert found.parts["total"]["bytes"] == sum(tensor.nbytes for tensor in stored.values())
    assert {tensor.name: tensor.shape for tensor in found.tensors} == {
        name: tuple(tensor.shape) for name, tensor in stored.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_has_the_parameters_of_its_source(
    kind: str, sources: dict[str, Path], teachers: dict[str, Path]
) -> None:
    found, source = inspect_checkpoint(teachers[kind], digests=True), inspect_checkpoint(sources[kind])
    manifest = load_teacher_manifest(teachers[kind])
    assert found.problems == ()
    assert counted(found) == counted(source)
    assert (found.family, found.layout) == (source.family, source.layout)
    assert (found.language, found.vision) == (source.language, source.vision)
    assert found.dtypes == {"bfloat16": len(found.tensors)}
    assert found.teacher is not None and found.teacher.digests is not None
    assert (found.teacher.source, found.teacher.dtype) == (kind, "bfloat16")
    assert found.teacher.verified == ("round_trip", "loads_at_tp1_pp1")
    assert (found.teacher.tp, found.teacher.pp) == ((1, 2), (1, 2, 4))
    assert found.num_files == found.teacher.digests.num_files == len(manifest.digests)


@pytest.mark.parametrize(
    ("kind", "vision"), [("internvl_llama", (2, 24, 3)), ("qwen2_vl", (2, 16, 2)), ("qwen2_5_vl", (2, 16, 2))]
)
def test_sizes_are_those_of_the_config(
    kind: str, vision: tuple[int, int, int], sources: dict[str, Path]
) -> None:
    found = as_json(inspect_checkpoint(sources[kind]), with_tensors=False)
    assert found["language"].items() >= BODY_SIZES.items()
    assert tuple(found["vision"].values()) == vision
    assert "tensors" not in found and "teacher" not in found


def test_a_tied_head_is_no_parameter_wherever_it_is_stored(
    sources: dict[str, Path], teachers: dict[str, Path], tmp_path: Path
) -> None:
    twice = copied(sources["qwen2_vl_tied"], tmp_path / "twice")
    name = "model.embed_tokens.weight"
    change_tensors(twice, lambda tensors: tensors.update({"lm_head.weight": tensors[name].clone()}))
    for folder in (twice, teachers["qwen2_vl_tied"]):
        found = inspect_checkpoint(folder)
        assert found.problems == ()
        assert counted(found) == parameters(sources["qwen2_vl_tied"])
        assert found.parts["tied_head"]["tensors"] == 1
        assert found.parts["tied_head"]["bytes"] == found.parts["embedding"]["bytes"]


def test_shards_are_counted_as_files(sources: dict[str, Path], tmp_path: Path) -> None:
    source, folder = sources["internvl_qwen2"], tmp_path / "sharded"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    AutoModelForImageTextToText.from_pretrained(source).save_pretrained(folder, max_shard_size="60KB")
    found = inspect_checkpoint(folder)
    assert found.num_files == len(list(folder.glob("*.safetensors"))) > 1
    assert counted(found) == parameters(source)


def internvl_chat_config(native: dict[str, Any]) -> dict[str, Any]:
    """Describe a native InternVL as its makers do, with an InternLM2 body."""
    text, vision = native["text_config"], native["vision_config"]
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    body = {name: text[name] for name in names}
    body |= {name: text[name] for name in ("num_key_value_heads", "rms_norm_eps", "vocab_size")}
    body |= {"max_position_embeddings": 512, "rope_theta": text["rope_parameters"]["rope_theta"]}
    tower = {name: vision[name] for name in names} | {"patch_size": 6, "qkv_bias": vision["attention_bias"]}
    tower |= {"qk_normalization": vision["use_qk_norm"]}
    tower |= {name: vision[name] for name in ("norm_type", "layer_norm_eps", "hidden_act")}
    return {
        "model_type": "internvl_chat",
        "template": "internvl2_5",
        "force_image_size": 24,
        "ps_version": "v2",
        "llm_config": body | {"architectures": ["InternLM2ForCausalLM"]},
        "vision_config": tower,
    }


@pytest.fixture(scope="module")
def internvl_chat(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the tiny InternVL with a Llama body as `internvl_chat` with an InternLM2 body."""
    folder = tmp_path_factory.mktemp("published") / "internvl_chat"
    shutil.copytree(sources["internvl_llama"], folder, ignore=shutil.ignore_patterns("model.safetensors"))
    source = open_checkpoint(sources["internvl_llama"])
    config = internvl_chat_config(json.loads((folder / "config.json").read_text()))
    layout = layout_named("internvl_chat", source.family, config)
    tensors = dict(published_tensors(layout, source.config, list(source.holder), source))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_packed_tensors_are_listed_with_all_that_they_hold(
    internvl_chat: Path, sources: dict[str, Path]
) -> None:
    found = inspect_checkpoint(internvl_chat)
    assert (found.problems, found.layout) == ((), "internvl_chat")
    assert counted(found) == parameters(sources["internvl_llama"])
    native = {tensor.name: tensor.native for tensor in found.tensors}
    layer = "model.language_model.layers.2.self_attn"
    assert native["language_model.model.layers.2.attention.wqkv.weight"] == tuple(
        f"{layer}.{name}_proj.weight" for name in "qkv"
    )
    listed = [name for names in native.values() for name in names]
    assert sorted(listed) == sorted(open_checkpoint(sources["internvl_llama"]).holder)


def test_a_missing_and_an_unknown_tensor_are_a_problem(sources: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(sources["internvl_qwen2"], tmp_path / "damaged")
    name = "vision_tower.encoder.layer.1.lambda_1"
    change_tensors(folder, lambda tensors: tensors.update({"vision_tower.extra": tensors.pop(name)[:7]}))
    found = inspect_checkpoint(folder)
    (problem,) = found.problems
    assert "1 missing (vision_tower.encoder.layer.1.lambda_1); 1 unknown" in problem
    assert found.parts["unknown"] == {"tensors": 1, "parameters": 7, "bytes": 28}
    before = parameters(sources["internvl_qwen2"])
    assert counted(found) == before | {"vision": before["vision"] - 24, "total": before["total"] - 24 + 7}


def test_a_tensor_that_cannot_be_unpacked_is_a_problem(internvl_chat: Path, tmp_path: Path) -> None:
    folder = copied(internvl_chat, tmp_path / "damaged")
    name = "language_model.model.layers.2.attention.wqkv.weight"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.ones(79, 40)}))
    found = inspect_checkpoint(folder)
    (problem,) = found.problems
    assert f"tensor {name} of shape (79, 40) does not hold what config.json says" in problem
    assert {t.num_parameters for t in found.tensors if t.name == name} == {79 * 40}


def test_a_body_that_cannot_be_converted_is_a_problem_and_counted_all_the_same(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(sources["internvl_qwen2"], tmp_path / "other")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change_config(folder, text_config=text | {"hidden_act": "gelu"})
    found = inspect_checkpoint(folder)
    assert found.problems == ("config.json: hidden_act 'gelu' is not supported; expected 'silu'",)
    assert found.language is None
    assert counted(found) == parameters(sources["internvl_qwen2"])


def damaged_teacher(tiny_folders: dict[str, Path], target: Path) -> Path:
    """Copy the teacher, its language body a byte short, one bit of its head turned, one file gone."""
    folder = copied(tiny_folders["teacher"], target)
    body, head = folder / "language" / "__0_0.distcp", folder / "head" / "model.safetensors"
    body.write_bytes(body.read_bytes()[:-1])
    content = head.read_bytes()
    head.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (folder / "tokenizer" / "tokenizer.json").unlink()
    return folder


def test_digests_name_every_file_that_is_not_the_one_converted(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = damaged_teacher(tiny_folders, tmp_path / "damaged")
    read: list[int] = []
    found = inspect_checkpoint(
        folder, digests=True, progress=lambda total: read.append(-total) or read.append
    )
    assert found.teacher is not None and found.teacher.digests is not None
    assert found.teacher.digests.missing == ("tokenizer/tokenizer.json",)
    assert set(found.teacher.digests.differing) == {"language/__0_0.distcp", "head/model.safetensors"}
    assert sum("is not as teacher.json says" in problem for problem in found.problems) == 2
    assert f"{folder / 'tokenizer' / 'tokenizer.json'} is missing" in found.problems
    assert counted(found) == parameters(tiny_folders["teacher_hf"])
    assert sum(read) == 0 and len(read) > 2


@pytest.mark.parametrize("digests", [False, True])
def test_a_damaged_index_of_the_language_body_is_a_problem(
    digests: bool, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(tiny_folders["teacher"], tmp_path / "damaged")
    index = folder / "language" / ".metadata"
    index.write_bytes(index.read_bytes()[:40])
    found = inspect_checkpoint(folder, digests=digests)
    (problem,) = found.problems
    what = "is not as teacher.json says" if digests else "cannot be read"
    assert problem.startswith(f"{index} {what}")
    assert found.parts["language"]["tensors"] == 0
    assert found.parts["vision"]["parameters"] == parameters(tiny_folders["teacher_hf"])["vision"]


@pytest.mark.parametrize("name", ["vision/config.json", "vision/model.safetensors", "head/model.safetensors"])
def test_a_missing_file_of_a_teacher_is_a_problem_without_digests_too(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(tiny_folders["teacher"], tmp_path / "damaged")
    (folder / name).unlink()
    found = inspect_checkpoint(folder)
    assert f"lacks 1 of its {found.num_files} files, e.g. {name}" in found.problems[0]
    assert found.teacher is not None and found.teacher.digests is None


def test_a_mesh_size_divides_heads_groups_channels_and_layers() -> None:
    spec = LanguageBodySpec(
        hidden_size=8192,
        num_layers=12,
        num_attention_heads=72,
        num_query_groups=24,
        head_dim=128,
        ffn_hidden_size=30_000,
        vocab_size=151_655,
        norm_epsilon=1e-6,
        rotary_base=1e6,
        max_position_embeddings=32_768,
        qkv_bias=True,
        tied_embeddings=False,
    )
    assert mesh_sizes(spec) == ((1, 2, 3, 4, 6, 8, 12, 24), (1, 2, 3, 4, 6, 12))
    wide = spec.model_copy(update={"num_attention_heads": 128, "num_query_groups": 128})
    assert mesh_sizes(wide.model_copy(update={"ffn_hidden_size": 256}))[0] == (1, 2, 4, 8, 16, 32, 64)


def make_nothing(folder: Path) -> None:
    folder.mkdir()


def make_file(path: Path) -> None:
    path.write_text("a text")


def make_run_checkpoint(folder: Path) -> None:
    folder.mkdir()
    (folder / "state.json").write_text("{}")


def make_export(folder: Path) -> None:
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, r"nothing: it does not exist"),
        (make_nothing, r"an empty folder"),
        (make_file, r"a file"),
        (make_run_checkpoint, r"state\.json; it looks like a checkpoint of a run: `genrecal export RUN`"),
        (make_export, r"student; inspect its student/"),
    ],
    ids=["no-folder", "empty", "file", "run-checkpoint", "export"],
)
def test_what_is_no_checkpoint_is_refused(make: Callable[[Path], object], found: str, tmp_path: Path) -> None:
    make(tmp_path / "it")
    with pytest.raises(ValueError, match=rf"it: expected a Hugging Face checkpoint .*, found {found}"):
        inspect_checkpoint(tmp_path / "it")


def test_digests_of_a_published_checkpoint_are_refused(sources: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"has no teacher\.json, which --digests compares its files with"):
        inspect_checkpoint(sources["qwen2_vl"], digests=True)


def test_tables_show_numbers_with_separators_and_whole_names(
    tiny_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspect_checkpoint(tiny_folders["teacher"])
    show(found, with_tensors=True)
    printed = capsys.readouterr().out
    assert f"{parameters(tiny_folders['teacher_hf'])['total']:,}" in printed
    assert all(name in printed for tensor in found.tensors for name in (tensor.name, *tensor.native))
    assert "not compared (--digests)" in printed


def test_the_script_prints_tables_from_any_folder(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    shown = run_inspect(tiny_folders["teacher"], "--digests", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"{parameters(tiny_folders['teacher_hf'])['total']:,}" in shown.stdout
    assert "as in teacher.json" in shown.stdout


def test_the_script_prints_one_json_object(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    shown = run_inspect(tiny_folders["teacher_hf"], "--json", "--tensors", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    expected = as_json(inspect_checkpoint(tiny_folders["teacher_hf"]), with_tensors=True)
    assert json.loads(shown.stdout) == json.loads(json.dumps(expected))


def test_the_script_ends_with_code_1_when_a_tensor_is_missing(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(sources["qwen2_vl"], tmp_path / "damaged")
    change_tensors(folder, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    shown = run_inspect("damaged", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "1 missing (model.layers.2.mlp.up_proj.weight); 0 unknown" in shown.stdout


def test_the_script_names_damaged_files_and_ends_with_code_1(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    damaged_teacher(tiny_folders, tmp_path / "damaged")
    shown = run_inspect("damaged", "--digests", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (1, "")
    problems = [line for line in shown.stdout.splitlines() if line.startswith("problem: ")]
    for name in ("language/__0_0.distcp", "head/model.safetensors", "tokenizer/tokenizer.json"):
        assert any(f"damaged/{name} is " in problem for problem in problems)


def test_the_script_ends_with_one_line_and_code_2_for_a_folder_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shown = run_inspect("empty", folder=tmp_path)
    assert (shown.returncode, shown.stdout) == (2, "")
    (line,) = shown.stderr.splitlines()
    assert line.startswith("error: empty: expected a Hugging Face checkpoint")


@pytest.mark.parametrize("name", ["inspect.py", "hf2mcore.py", "mcore2hf.py"])
def test_no_script_takes_the_inspect_of_this_project_for_the_standard_one(name: str, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT.with_name(name), "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Example: " in shown.stdout
