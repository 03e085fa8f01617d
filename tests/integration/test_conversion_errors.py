"""Every bad input ends in a `ValueError` that names the file or the key, and the target stays as it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from checkpoint_tools.conversion import Options, convert_to_mcore
from tests.helpers.tiny_models import make_tiny_model

QUERY_OF_LAYER_2 = "language_model.model.layers.2.self_attn.q_proj.weight"
LAMBDA = "vision_tower.encoder.layer.1.lambda_1"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make sound folders to copy and damage: one file, shards, a tied model."""
    root = tmp_path_factory.mktemp("sound")
    made = {
        "single": make_tiny_model(root / "single", "internvl_qwen2", seed=0),
        "tied": make_tiny_model(root / "tied", "qwen2_vl_tied", seed=1),
        "sharded": root / "sharded",
    }
    shutil.copytree(made["single"], made["sharded"], ignore=shutil.ignore_patterns("model.safetensors"))
    model = AutoModelForImageTextToText.from_pretrained(made["single"])
    model.save_pretrained(made["sharded"], max_shard_size="60KB")
    return made


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_text_config(folder: Path, **fields: object) -> None:
    text_config = json.loads((folder / "config.json").read_text())["text_config"]
    change_config(folder, text_config=text_config | fields)


def truncate(path: Path, *, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def second_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[1]


def remove_from_shard(folder: Path, key: str) -> None:
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    path = folder / weight_map[key]
    save_file({name: t for name, t in load_file(path).items() if name != key}, path)


def leave_only_bin_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def untie_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1


# (id, sound folder, how to damage it, what the error must say)
DAMAGES = [
    ("missing-folder", "single", shutil.rmtree, r"config\.json does not exist"),
    (
        "missing-shard",
        "sharded",
        lambda folder: second_shard(folder).unlink(),
        r"model-00002-of-\d+\.safetensors does not exist",
    ),
    (
        "truncated-shard",
        "sharded",
        lambda folder: truncate(second_shard(folder), size=20_000),
        r"model-00002-of-\d+\.safetensors is not a whole safetensors file",
    ),
    (
        "truncated-data",
        "single",
        lambda folder: truncate(folder / "model.safetensors", size=100_000),
        r"model\.safetensors is not a whole safetensors file",
    ),
    (
        "truncated-header",
        "single",
        lambda folder: truncate(folder / "model.safetensors", size=5),
        r"model\.safetensors is not a whole safetensors file",
    ),
    (
        "empty-file",
        "single",
        lambda folder: truncate(folder / "model.safetensors", size=0),
        r"model\.safetensors is not a whole safetensors file",
    ),
    (
        "missing-key",
        "single",
        lambda folder: change_tensors(folder, lambda tensors: tensors.pop(QUERY_OF_LAYER_2)),
        r"1 missing \(language_model\.model\.layers\.2\.self_attn\.q_proj\.weight\); 0 unknown",
    ),
    (
        "missing-key-of-a-shard",
        "sharded",
        lambda folder: remove_from_shard(folder, QUERY_OF_LAYER_2),
        rf"names 1 tensors that its files lack, e\.g\. {QUERY_OF_LAYER_2}",
    ),
    (
        "missing-head",
        "single",
        lambda folder: change_tensors(folder, lambda tensors: tensors.pop("language_model.lm_head.weight")),
        r"1 missing \(language_model\.lm_head\.weight\)",
    ),
    (
        "missing-vision-tensor",
        "single",
        lambda folder: change_tensors(folder, lambda tensors: tensors.pop(LAMBDA)),
        r"1 missing \(vision_tower\.encoder\.layer\.1\.lambda_1\)",
    ),
    (
        "wrong-shape-of-vision-tensor",
        "single",
        lambda folder: change_tensors(folder, lambda tensors: tensors.update({LAMBDA: torch.ones(7)})),
        rf"{LAMBDA} \(7,\) instead of \(24,\)",
    ),
    (
        "unsupported-rope",
        "single",
        lambda folder: change_text_config(folder, rope_parameters={"rope_type": "llama3", "rope_theta": 1e6}),
        r"rope_parameters of type 'llama3' is not supported",
    ),
    (
        "unsupported-activation",
        "single",
        lambda folder: change_text_config(folder, hidden_act="gelu"),
        r"hidden_act 'gelu' is not supported",
    ),
    (
        "mixed-dtypes",
        "single",
        lambda folder: change_tensors(folder, lambda t: t.update({LAMBDA: t[LAMBDA].bfloat16()})),
        r"holds tensors of .*torch\.bfloat16 .*pass --dtype",
    ),
    (
        "unknown-key",
        "single",
        lambda folder: change_tensors(folder, lambda tensors: tensors.update(extra=torch.ones(3))),
        r"0 missing; 1 unknown \(extra\)",
    ),
    (
        "one-layer-more-than-config",
        "single",
        lambda folder: change_config(
            folder,
            text_config=json.loads((folder / "config.json").read_text())["text_config"]
            | {"num_hidden_layers": 3, "layer_types": None},
        ),
        r"with 3 layers: 0 missing; 12 unknown \(language_model\.model\.layers\.3\.",
    ),
    (
        "wrong-shape",
        "single",
        lambda folder: change_tensors(
            folder, lambda tensors: tensors.update({QUERY_OF_LAYER_2: torch.ones(40, 38)})
        ),
        rf"1 of another shape \({QUERY_OF_LAYER_2} \(40, 38\) instead of \(40, 40\)\)",
    ),
    (
        "wrong-shape-of-head",
        "single",
        lambda folder: change_tensors(
            folder, lambda tensors: tensors.update({"language_model.lm_head.weight": torch.ones(341, 40)})
        ),
        r"lm_head\.weight \(341, 40\) instead of \(342, 40\)",
    ),
    (
        "tied-flag-with-another-head",
        "tied",
        lambda folder: change_tensors(folder, untie_head),
        r"config\.json says tie_word_embeddings, but lm_head\.weight differs",
    ),
    ("only-bin-weights", "single", leave_only_bin_weights, r"holds pickled \.bin weights"),
    (
        "no-weights",
        "single",
        lambda folder: (folder / "model.safetensors").unlink(),
        r"holds no weights",
    ),
    (
        "config-not-json",
        "single",
        lambda folder: (folder / "config.json").write_text('{"model_type": '),
        r"config\.json is not JSON",
    ),
    (
        "unsupported-model-type",
        "single",
        lambda folder: change_config(folder, model_type="llava"),
        r"config\.json: model_type 'llava' .*is not supported; expected one of",
    ),
    (
        "config-of-another-family",
        "single",
        lambda folder: change_config(folder, model_type="qwen2_vl"),
        r"config\.json does not describe a model of qwen2_vl",
    ),
]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder with its bytes, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("sound", "damage", "message"), [pytest.param(*case, id=name) for name, *case in DAMAGES]
)
def test_a_damaged_source_is_named_and_the_target_stays_as_it_was(
    sound: str, damage: Callable[[Path], object], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    source, targets = tmp_path / "source", tmp_path / "targets"
    shutil.copytree(folders[sound], source)
    damage(source)
    (targets / "out").mkdir(parents=True)
    (targets / "out" / "kept.txt").write_text("an older conversion")
    with pytest.raises(ValueError, match=message):
        convert_to_mcore(source, targets / "out", Options(verify=True, overwrite=True))
    assert contents(targets) == {"out/kept.txt": b"an older conversion"}
    assert [path.name for path in targets.iterdir()] == ["out"]


def test_an_existing_target_is_not_replaced_unasked(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "kept.txt").write_text("an older conversion")
    with pytest.raises(ValueError, match=r"out exists; choose another --out or pass --overwrite"):
        convert_to_mcore(folders["single"], out)
    assert contents(tmp_path) == {"out/kept.txt": b"an older conversion"}


def test_a_source_is_never_its_own_target(folders: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folders["single"], source)
    before = contents(source)
    for out in (source, source / "inside", tmp_path):
        with pytest.raises(ValueError, match="lie in each other"):
            convert_to_mcore(source, out, Options(overwrite=True))
    assert contents(source) == before
