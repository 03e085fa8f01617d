from pathlib import Path

import pytest

from genrecal_mcore.config import DataConfig, DataSource, RunConfig
from genrecal_mcore.data import (
    ModelProcessor,
    build_index,
    check_shared_tokens,
    check_vocabularies,
    first_samples,
    load_processor,
)
from tests.helpers.first_step import raw_config
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_index import facts_of
from tests.helpers.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give models with one tokenizer: two of a family, one of another, one whose head lacks some tokens."""
    root = tmp_path_factory.mktemp("pair")
    kinds = {"teacher": "internvl_qwen2", "alike": "internvl_qwen2", "other": "qwen2_vl", "cut": "qwen2_vl"}
    sizes = {"teacher": 342, "alike": 330, "other": 330, "cut": 307}
    for name, kind in kinds.items():
        make_tiny_model(root / name, kind, seed=1, shares_tokenizer=True, vocab_size=sizes[name])
    return {name: root / name for name in kinds} | {"data": make_tiny_dataset(root / "data", 6, seed=3)}


def processors_of(teacher: Path, student: Path) -> dict[str, ModelProcessor | None]:
    return {"teacher": load_processor(teacher), "student": load_processor(student)}


def data_config(path: Path) -> DataConfig:
    return DataConfig(sources=(DataSource(path=path, images=path.parent / "images"),))


def check(folders: dict[str, Path], student: str, positions: str) -> None:
    paths = {"teacher": folders["teacher"], "student": folders[student], "data": folders["data"]}
    raw = raw_config(paths, Path("run"), stage=2, method="kl", distillation={"positions": positions})
    config = RunConfig.model_validate(raw)
    processors = processors_of(folders["teacher"], folders[student])
    check_vocabularies("kl", processors)
    check_shared_tokens(config, processors, first_samples(config.data, processors, num_records=6))


def test_one_tokenizer_padded_to_two_sizes_and_images_cut_alike_are_served(folders: dict[str, Path]) -> None:
    check(folders, "alike", "all")
    check(folders, "alike", "answers")


def test_images_that_are_cut_otherwise_are_served_in_the_answers_alone(folders: dict[str, Path]) -> None:
    check(folders, "other", "answers")
    with pytest.raises(
        ValueError,
        match=r"positions all needs the same tokens on both sides, but in sample 'sample-000' the teacher "
        r"reads \d+ tokens and the student \d+, equal up to position 1 and then .*; set "
        "distillation.positions to answers, where they are the same, or method genrecal serves any pair",
    ):
        check(folders, "other", "all")


def test_other_tokenizers_are_refused_by_a_token_that_differs(
    folders: dict[str, Path], model_folders: dict[str, Path]
) -> None:
    processors = processors_of(model_folders["internvl_qwen2"], model_folders["qwen2_vl"])
    with pytest.raises(
        ValueError,
        match=r"method kl needs one tokenizer, but token \d+ is '.+' in .*internvl_qwen2 and '.+' in",
    ):
        check_vocabularies("kl", processors)


def test_answers_that_are_cut_otherwise_are_shown(
    folders: dict[str, Path], model_folders: dict[str, Path]
) -> None:
    paths = {"teacher": folders["teacher"], "student": model_folders["qwen2_vl"], "data": folders["data"]}
    config = RunConfig.model_validate(
        raw_config(paths, Path("run"), stage=2, method="kl", distillation={"positions": "answers"})
    )
    processors = processors_of(paths["teacher"], paths["student"])
    with pytest.raises(ValueError, match=r"answer 1 begins with \[.*\] for the teacher and \[.*\] for the"):
        check_shared_tokens(config, processors, first_samples(config.data, processors, num_records=6))


def test_a_token_without_a_row_in_a_head_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(
        ValueError, match=r"the 307 tokens that both heads have, but token 308 .* is none of them"
    ):
        check(folders, "cut", "answers")


def test_the_index_knows_where_both_models_read_the_same_tokens(
    folders: dict[str, Path], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    students = {"all": folders["alike"], "answers": folders["other"], "none": model_folders["qwen2_vl"]}
    for expected, student in students.items():
        processors = processors_of(folders["teacher"], student)
        index = build_index(tmp_path / expected, data_config(folders["data"]), processors)
        assert {facts.shared_tokens for facts in facts_of(index)} == {expected}
        assert index.first_sharing([expected]) == 0
        assert index.first_sharing([kind for kind in students if kind != expected]) is None
