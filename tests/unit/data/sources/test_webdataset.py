import json
import tarfile
from pathlib import Path

import pytest

from genrecal_mcore.config import DataSource
from genrecal_mcore.data.images import opened_image
from genrecal_mcore.data.llava import build_sample
from genrecal_mcore.data.sources import read_record, records_of
from genrecal_mcore.data.types import BrokenSample, Sample, Turn
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_sources import add_member, records_in, write_tar

ASKED = json.dumps(
    {"conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "yes"}]}
).encode()


def samples_in(path: Path, images: Path | None = None) -> list[Sample]:
    source = DataSource(path=path, images=images, name="tiny")
    return [build_sample(read_record(record), record) for record in records_of(source)]


def write(path: Path, members: dict[str, bytes], *, format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            add_member(tar, name, content)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_tiny_dataset(tmp_path / "tiny", 10, seed=2)


def test_shards_hold_the_samples_of_the_jsonl_file_they_were_made_of(data: Path, tmp_path: Path) -> None:
    images, records = data.parent / "images", records_in(data)
    write_tar(tmp_path / "s-0.tar", records[:7], images)
    write_tar(tmp_path / "s-1.tar", records[7:], images)
    expected, found = samples_in(data, images), samples_in(tmp_path / "s-{0..1}.tar")
    for one, other in zip(expected, found, strict=True):
        assert (one.id, one.turns, one.domain) == (other.id, other.turns, other.domain)
        for file, stored in zip(one.images, other.images, strict=True):
            with opened_image(file) as mine, opened_image(stored) as theirs:
                assert mine.tobytes() == theirs.tobytes()


def test_members_may_come_in_any_order_have_folders_and_other_company(tmp_path: Path) -> None:
    members = {"./x.y/a.JPG": b"1", "./x.y/a.json": ASKED, "./x.y/a.cls": b"3", "./x.y/.hidden.png": b"?"}
    (sample,) = samples_in(write(tmp_path / "a.tar", members))
    assert sample.id == "./x.y/a"
    (image,) = sample.images
    assert image.name == "./x.y/a.JPG" and image.open().read() == b"1"


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_long_names_are_read_in_the_middle_of_a_tar(format: int, tmp_path: Path) -> None:
    keys = ["a", "b" * 120, "\u4e2d" * 60]
    members = {f"{key}.{suffix}": value for key in keys for suffix, value in (("png", b"1"), ("json", ASKED))}
    samples = samples_in(write(tmp_path / "a.tar", members, format=format))
    assert [sample.id for sample in samples] == keys


def test_a_caption_is_the_answer_to_its_images_alone(tmp_path: Path) -> None:
    (sample,) = samples_in(write(tmp_path / "a.tar", {"a.png": b"1", "a.txt": b"A cat.", "a.2.png": b"2"}))
    assert sample.turns == (Turn(question="<image><image>", answer="A cat."),)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.png": b"1"}, r"a\.png has no a\.json or a\.txt beside it"),
        ({"a.json": ASKED}, r"1 <image> placeholders for 0 images"),
        ({"a.txt": b"A cat."}, r"a\.txt is a caption without an image beside it"),
        ({"a.json": b"{"}, r"a\.json cannot be read: Expecting"),
        ({"a.json": b"[]", "a.png": b"1"}, r"expected an object, found list"),
    ],
)
def test_a_member_without_its_pair_makes_a_broken_sample(
    members: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BrokenSample, match=reason):
        samples_in(write(tmp_path / "a.tar", members))


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 0), (0, 100), (0, 1000), (0, 1900), (0, 2600)],
    ids=["nothing", "in-header", "in-data", "in-a-later-header", "in-later-data"],
)
def test_a_tar_that_is_cut_off_is_named(start: int, end: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"a.json": ASKED, "a.png": b"1" * 300, "b.json": b"2" * 600})
    path.write_bytes(path.read_bytes()[start:end])
    with pytest.raises(ValueError, match=r"a\.tar is (not a whole tar file|damaged or cut off)"):
        list(records_of(DataSource(path=path)))


def test_a_damaged_header_is_named_and_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"a.json": ASKED, "a.png": b"1", "b.json": ASKED})
    content = bytearray(path.read_bytes())
    content[1024:1200] = b"\x01" * 176
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tar is damaged or cut off: it has \d+ bytes, .* at byte 1024"):
        list(records_of(DataSource(path=path)))
