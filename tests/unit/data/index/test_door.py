import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import Builders, ModelProcessor, build_index, load_processor, prepare_index
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_index import content_of

NUM_SAMPLES = 40
"""Three pieces."""


class CheckedRecords:
    """Counts the records that are checked, and interrupts the build when there are enough."""

    def __init__(self, *, interrupt_at: int = NUM_SAMPLES + 1) -> None:
        self.done = 0
        self.interrupt_at = interrupt_at

    def advance(self, count: int = 1) -> None:
        self.done += count
        if self.done >= self.interrupt_at:
            raise KeyboardInterrupt

    @contextmanager
    def __call__(self, total: int) -> Iterator["CheckedRecords"]:
        self.total = total
        yield self


@pytest.fixture(scope="module")
def processors(model_folders: dict[str, Path]) -> dict[str, ModelProcessor | None]:
    return {"teacher": None, "student": load_processor(model_folders["qwen2_vl"])}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_tiny_dataset(tmp_path / "tiny", NUM_SAMPLES, seed=2)


def config_of(data: Path, **changes: Any) -> DataConfig:
    source = DataSource(path=data, images=data.parent / "images", name="tiny", domain="shapes")
    return DataConfig(**{"sources": (source,)} | changes)


def prepare(
    folder: Path, data: DataConfig, processors: Mapping[str, ModelProcessor | None], **options: Any
) -> tuple[Any, int]:
    """Return the content of the prepared index, and how many records were checked for it."""
    checked = CheckedRecords()
    index = prepare_index(folder, data, processors, builders=Builders(progress=checked), **options)
    return content_of(index), checked.done


def test_an_index_that_fits_is_opened_and_not_built_again(
    data: Path, processors: dict[str, ModelProcessor | None], tmp_path: Path
) -> None:
    built, num_checked = prepare(tmp_path / "index", config_of(data), processors)
    assert num_checked == NUM_SAMPLES
    assert prepare(tmp_path / "index", config_of(data), processors) == (built, 0)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_index_goes_with_its_data_to_another_folder(
    data: Path, processors: dict[str, ModelProcessor | None], tmp_path: Path
) -> None:
    build_index(tmp_path / "index", config_of(data), processors)
    shutil.copytree(data.parent, tmp_path / "copy")  # keeps the times of change
    shutil.rmtree(data.parent)
    copy = tmp_path / "copy" / data.name
    index = prepare_index(tmp_path / "index", config_of(copy), processors)
    assert index.record(3).file == copy
    assert index[3].images[0].open().parent == tmp_path / "copy" / "images"


def lengthen(data: Path) -> None:
    data.write_text(data.read_text() + "\n")


def touch(data: Path) -> None:
    os.utime(data, ns=(0, data.stat().st_mtime_ns + 1_000))


@pytest.mark.parametrize("change", [lengthen, touch])
@pytest.mark.parametrize("may_replace", [False, True])
def test_a_source_that_changed_is_named_or_its_index_replaced(
    change: Any, may_replace: bool, data: Path, processors: dict[str, ModelProcessor | None], tmp_path: Path
) -> None:
    built, _ = prepare(tmp_path / "index", config_of(data), processors)
    change(data)
    if may_replace:
        again, num_checked = prepare(tmp_path / "index", config_of(data), processors, may_replace=True)
        assert num_checked == NUM_SAMPLES and again["samples"] == built["samples"]
        return
    message = (
        r"the index .*/index was built when .*/data\.jsonl of the source tiny had \d+ bytes of .* UTC, "
        r"and it has \d+ bytes of .* UTC; bring back what .* or run genrecal data index CONFIG --overwrite$"
    )
    with pytest.raises(ValueError, match=message):
        prepare_index(tmp_path / "index", config_of(data), processors)
    assert prepare(tmp_path / "copy", config_of(data), processors)[1] == NUM_SAMPLES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 500}, r"with data\.max_tokens 4096, and it is 500"),
        ({"verify_images": False}, r"with data\.verify_images True, and it is False"),
        ({"domain": "other"}, r"when the source tiny had the domain shapes, and it has other"),
        ({"name": "more"}, r"from the sources tiny, and data\.sources are more"),
        ({"path": "renamed.jsonl"}, r"from data\.jsonl of the source tiny, where renamed\.jsonl is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_are_named(
    changes: dict[str, Any],
    message: str,
    data: Path,
    processors: dict[str, ModelProcessor | None],
    tmp_path: Path,
) -> None:
    config = config_of(data)
    build_index(tmp_path / "index", config, processors)
    if "path" in changes:
        changes = {"path": data.rename(data.with_name(changes["path"]))}
    if changes.keys() & DataSource.model_fields.keys():
        changes = {"sources": (config.sources[0].model_copy(update=changes),)}
    with pytest.raises(ValueError, match=message):
        prepare_index(tmp_path / "index", config.model_copy(update=changes), processors)


def test_other_processors_are_named(
    data: Path,
    processors: dict[str, ModelProcessor | None],
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    build_index(tmp_path / "index", config_of(data), processors)
    other = load_processor(model_folders["internvl_qwen2"])
    for changes, message in (
        ({"teacher": other}, r"was built without a teacher, and this run has one"),
        ({"student": other}, r"was built with another processor of the student \(digest \w{12}, and it is"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_index(tmp_path / "index", config_of(data), processors | changes)


def test_a_build_that_was_interrupted_goes_on_where_it_stopped(
    data: Path, processors: dict[str, ModelProcessor | None], tmp_path: Path
) -> None:
    interrupted = CheckedRecords(interrupt_at=20)
    with pytest.raises(KeyboardInterrupt):
        prepare_index(
            tmp_path / "index", config_of(data), processors, builders=Builders(progress=interrupted)
        )
    assert not (tmp_path / "index").exists()
    resumed, num_checked = prepare(tmp_path / "index", config_of(data), processors)
    assert num_checked == NUM_SAMPLES - interrupted.done
    assert resumed == prepare(tmp_path / "whole", config_of(data), processors)[0]


def test_what_was_begun_for_other_data_is_thrown_away(
    data: Path, processors: dict[str, ModelProcessor | None], tmp_path: Path
) -> None:
    interrupted = CheckedRecords(interrupt_at=20)
    with pytest.raises(KeyboardInterrupt):
        prepare_index(
            tmp_path / "index", config_of(data), processors, builders=Builders(progress=interrupted)
        )
    touch(data)
    assert prepare(tmp_path / "index", config_of(data), processors)[1] == NUM_SAMPLES


def test_a_folder_of_something_else_is_not_removed(
    data: Path, processors: dict[str, ModelProcessor | None]
) -> None:
    folder = data.parent / "images"
    for make in (prepare_index, build_index):
        with pytest.raises(ValueError, match=r"images holds (no index\.json|something else than an index)"):
            make(folder, config_of(data), processors)
    with pytest.raises(ValueError, match=r"images holds something else than an index of data, so it is not"):
        prepare_index(folder, config_of(data), processors, may_replace=True)
    assert len(list(folder.iterdir())) > NUM_SAMPLES // 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("counts.npy", b"x", r"counts\.npy cannot be read"),
        ("places.npy", None, r"places\.npy cannot be read"),
        ("index.json", b'{"format_version": 0}', r"index\.json has format 0, and this version reads 1"),
        ("index.json", b'{"format_version": 1}', r"index\.json is not the description of an index"),
    ],
)
def test_a_damaged_index_is_named(
    name: str,
    content: bytes | None,
    message: str,
    data: Path,
    processors: dict[str, ModelProcessor | None],
    tmp_path: Path,
) -> None:
    build_index(tmp_path / "index", config_of(data), processors)
    (tmp_path / "index" / name).unlink()
    if content is not None:
        (tmp_path / "index" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare_index(tmp_path / "index", config_of(data), processors)
