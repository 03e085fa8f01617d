import json
import shutil
from pathlib import Path

import pytest

from genrecal_mcore.config import Family
from genrecal_mcore.data.processor import load_processor


def copy_without(source: Path, target: Path, name: str = "") -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors", name))
    return target


@pytest.mark.parametrize("kind", ["internvl_qwen2", "qwen2_vl"])
def test_config_and_tokenizer_of_different_models_are_refused(
    model_folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    folder = copy_without(model_folders[kind], tmp_path / kind)
    config = json.loads((folder / "config.json").read_text())
    wrong = config["image_token_id"] - 1
    (folder / "config.json").write_text(json.dumps(config | {"image_token_id": wrong}))
    with pytest.raises(ValueError, match=rf"image_token_id {wrong}, but the tokenizer gives .* {wrong + 1}"):
        load_processor(folder)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer_config.json", "config.json"])
def test_a_folder_without_a_needed_file_is_refused(
    model_folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = copy_without(model_folders["qwen2_vl"], tmp_path / "model", name)
    with pytest.raises(ValueError, match=rf"model/{name} does not exist"):
        load_processor(folder)


def test_a_folder_of_another_family_is_refused(model_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="of family qwen2_vl, but internvl was expected"):
        load_processor(model_folders["qwen2_vl"], Family.INTERNVL)
