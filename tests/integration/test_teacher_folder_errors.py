"""A teacher folder that is not whole is refused by name, and nothing is written from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_tools.conversion import convert_to_hf, convert_to_mcore
from genrecal_mcore.config import validate_teacher_folder
from tests.helpers.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def sound_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    source = make_tiny_model(root / "source", "internvl_llama", seed=0)
    convert_to_mcore(source, root / "teacher")
    return root / "teacher"


def say_other_family(folder: Path) -> None:
    path = folder / "vision" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "qwen2_vl"}))


def truncate(path: Path, *, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


# (id, how to damage a teacher folder, what the error must say)
TEACHER_DAMAGES = [
    (
        "other-family",
        say_other_family,
        r"teacher\.json says family internvl, but .*is of family qwen2_vl",
    ),
    (
        "no-language",
        lambda folder: shutil.rmtree(folder / "language"),
        r"lacks 4 of its \d+ files, e\.g\. language/",
    ),
    (
        "no-head",
        lambda folder: (folder / "head" / "model.safetensors").unlink(),
        r"lacks 1 of its \d+ files, e\.g\. head/model\.safetensors",
    ),
    (
        "no-tokenizer",
        lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(),
        r"lacks 1 of its \d+ files, e\.g\. tokenizer/tokenizer\.json",
    ),
    ("no-manifest", lambda folder: (folder / "teacher.json").unlink(), r"teacher\.json does not exist"),
    (
        "manifest-not-json",
        lambda folder: truncate(folder / "teacher.json", size=100),
        r"teacher\.json is not a valid teacher description",
    ),
]


@pytest.mark.parametrize(
    ("damage", "message"), [pytest.param(*case, id=name) for name, *case in TEACHER_DAMAGES]
)
def test_a_damaged_teacher_folder_is_named_and_the_target_stays_as_it_was(
    damage: Callable[[Path], object], message: str, sound_teacher: Path, tmp_path: Path
) -> None:
    teacher, targets = tmp_path / "teacher", tmp_path / "targets"
    shutil.copytree(sound_teacher, teacher)
    damage(teacher)
    (targets / "out").mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        validate_teacher_folder(teacher)
    with pytest.raises(ValueError, match=message):
        convert_to_hf(teacher, targets / "out", overwrite=True)
    assert [path.name for path in targets.rglob("*")] == ["out"]


def test_an_existing_target_is_not_replaced_unasked(sound_teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "kept.txt").write_text("an older export")
    with pytest.raises(ValueError, match=r"out exists; choose another --out or pass --overwrite"):
        convert_to_hf(sound_teacher, out, overwrite=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "kept.txt"]


def test_weights_that_are_cut_short_are_named(sound_teacher: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(sound_teacher, teacher)
    truncate(teacher / "head" / "model.safetensors", size=1000)
    with pytest.raises(ValueError, match=r"head/model\.safetensors is not a whole safetensors file"):
        convert_to_hf(teacher, tmp_path / "out", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
