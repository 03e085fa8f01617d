from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.images import opened_image
from genrecal_mcore.data.llava import build_sample
from genrecal_mcore.data.sources import read_record, records_of
from genrecal_mcore.data.types import BrokenSample, Sample
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_sources import IMAGE_TYPE, records_in, write_parquet

ASKED = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "yes"}]
PNG = b"not looked at"


def samples_in(path: Path, images: Path | None = None) -> list[Sample]:
    source = DataSource(path=path, images=images, name="tiny")
    return [build_sample(read_record(record), record) for record in records_of(source)]


def write(path: Path, images: pa.Array, column: str = "image") -> None:
    pq.write_table(pa.table({"conversations": [ASKED] * len(images), column: images}), path)


def content_of(sample: Sample) -> Any:
    (image,) = sample.images
    content = image.open()
    return content if isinstance(content, Path) else content.read()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_tiny_dataset(tmp_path / "tiny", 10, seed=2)


def test_shards_hold_the_samples_of_the_jsonl_file_they_were_made_of(data: Path, tmp_path: Path) -> None:
    images, records = data.parent / "images", records_in(data)
    write_parquet(tmp_path / "shards" / "train-0.parquet", records[:7], images)
    write_parquet(tmp_path / "shards" / "train-1.parquet", records[7:], images)
    expected, found = samples_in(data, images), samples_in(tmp_path / "shards")
    for one, other in zip(expected, found, strict=True):
        assert (one.id, one.turns, one.domain) == (other.id, other.turns, other.domain)
        assert [image.name for image in one.images] == [image.name for image in other.images]
        for file, stored in zip(one.images, other.images, strict=True):
            with opened_image(file) as mine, opened_image(stored) as theirs:
                assert mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize(
    ("images", "name"),
    [
        (pa.array([{"bytes": PNG, "path": None}], IMAGE_TYPE), "image 1 in row 1"),
        (pa.array([[{"bytes": PNG, "path": "a.png"}]], pa.list_(IMAGE_TYPE)), "a.png"),
        (pa.array([PNG]), "image 1 in row 1"),
        (pa.array([[PNG]]), "image 1 in row 1"),
    ],
    ids=["struct", "list of structs", "bytes", "list of bytes"],
)
@pytest.mark.parametrize("column", ["image", "images"])
def test_images_lie_in_a_column_of_structs_or_of_bytes(
    column: str, images: pa.Array, name: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", images, column)
    (sample,) = samples_in(tmp_path / "a.parquet")
    assert [image.name for image in sample.images] == [name]
    assert content_of(sample) == PNG


@pytest.mark.parametrize(
    "images",
    [
        pa.array([{"bytes": None, "path": "x/a.png"}], IMAGE_TYPE),
        pa.array(["x/a.png"]),
        pa.array([["x/a.png"]]),
    ],
    ids=["struct", "text", "list of texts"],
)
def test_an_image_that_a_row_only_names_is_a_file(images: pa.Array, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", images)
    (sample,) = samples_in(tmp_path / "a.parquet", tmp_path / "pictures")
    assert content_of(sample) == tmp_path / "pictures" / "x" / "a.png"


def test_an_image_without_bytes_or_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.array([{"bytes": None, "path": "x/a.png"}], IMAGE_TYPE))
    (sample,) = samples_in(tmp_path / "a.parquet")
    with pytest.raises(
        BrokenSample, match=r"x/a\.png of .*a\.parquet has no bytes, and no file in data\.sou"
    ):
        content_of(sample)


def test_rows_without_images_and_files_without_an_image_column_are_text(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    pq.write_table(pa.table({"messages": [asked]}), tmp_path / "a.parquet")
    images = pa.array([None, None], IMAGE_TYPE)
    pq.write_table(pa.table({"messages": [asked] * 2, "image": images}), tmp_path / "b.parquet")
    samples = samples_in(tmp_path / "?.parquet")
    assert [(sample.id, sample.images) for sample in samples] == [
        ("tiny-a-1", ()),
        ("tiny-b-1", ()),
        ("tiny-b-2", ()),
    ]


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["?"], "answer": ["!"]}), tmp_path / "a.parquet")
    expected = r"a\.parquet has the columns question, answer; expected one called conversations or messages"
    with pytest.raises(ValueError, match=expected):
        samples_in(tmp_path / "a.parquet")


@pytest.mark.parametrize("keep", [0, 60, -20])
def test_a_file_that_is_cut_off_is_named(keep: int, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, records_in(data), data.parent / "images")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.parquet is not a whole parquet file"):
        samples_in(path)


def test_a_damaged_row_group_is_named(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, records_in(data), data.parent / "images")
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet: row group 0 cannot be read"):
        samples_in(path)
