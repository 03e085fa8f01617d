"""Shards on disk: whole or not at all, read back bit for bit, damage named."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from genrecal_mcore.feature_cache import FeatureReader, read_contents, remove_partial_shards, sample_bytes
from genrecal_mcore.feature_cache.contents import KEY_TYPE
from genrecal_mcore.feature_cache.shards import write_shard
from tests.helpers.full_disk import full_disk

HIDDEN_SIZE = 8
FIRST, SECOND = (3, 1, 4), (5, 2)
"""Samples of two shards, by number."""


def key_of(number: int) -> str:
    return f"{7 * number + 1:032x}"


def rows_of(number: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(2 + number, HIDDEN_SIZE, generator=generator).to(dtype)


def reader_of(folder: Path, numbers: range = range(6)) -> FeatureReader:
    return FeatureReader(read_contents(folder), np.array([key_of(n) for n in numbers], dtype=KEY_TYPE))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for numbers in (FIRST, SECOND):
        write_shard(tmp_path, {key_of(number): rows_of(number) for number in numbers})
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_read_back_bit_for_bit_in_any_order(dtype: torch.dtype, tmp_path: Path) -> None:
    for numbers in (FIRST, SECOND):
        write_shard(tmp_path, {key_of(number): rows_of(number, dtype) for number in numbers})
    reader = reader_of(tmp_path)
    assert reader.missing.tolist() == [0]
    for number in (5, 1, 4, 2, 3, 1):
        found = reader.read(number)
        assert found.dtype == dtype
        assert torch.equal(found, rows_of(number, dtype))


def test_equal_samples_are_found_under_every_number(cache: Path) -> None:
    keys = np.array([key_of(number) for number in (4, 9, 2, 4)], dtype=KEY_TYPE)
    reader = FeatureReader(read_contents(cache), keys)
    assert reader.missing.tolist() == [1]
    assert torch.equal(reader.read(0), rows_of(4)) and torch.equal(reader.read(3), rows_of(4))


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    contents = read_contents(tmp_path)
    assert contents.damages == ()
    assert FeatureReader(contents, np.array([key_of(1)], dtype=KEY_TYPE)).missing.tolist() == [0]


def truncate(data: bytes) -> bytes:
    return data[:-5]


def cut_header(data: bytes) -> bytes:
    return data[:20]


def empty(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [truncate, cut_header, empty])
def test_a_damaged_shard_is_named_and_its_samples_are_missing(
    damage: Callable[[bytes], bytes], cache: Path
) -> None:
    path = write_shard(cache, {key_of(0): rows_of(0)})
    path.write_bytes(damage(path.read_bytes()))
    contents = read_contents(cache)
    (said,) = contents.damages
    assert str(path) in said and "is damaged or truncated" in said and "remove it" in said
    reader = reader_of(cache)
    assert reader.missing.tolist() == [0]
    assert torch.equal(reader.read(4), rows_of(4))


def test_a_bit_that_fell_over_is_found_when_the_sample_is_read(cache: Path) -> None:
    path = write_shard(cache, {key_of(0): rows_of(0)})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    reader = reader_of(cache)
    assert not len(reader.missing)
    assert torch.equal(reader.read(3), rows_of(3))
    with pytest.raises(RuntimeError, match=rf"{path.name} cannot be read: sample {key_of(0)} is not as it"):
        reader.read(0)


def test_a_shard_that_vanished_is_named(cache: Path) -> None:
    reader = reader_of(cache)
    for path in (cache / "shards").iterdir():
        path.unlink()
    with pytest.raises(RuntimeError, match="remove that file and run genrecal cache again"):
        reader.read(3)


def test_what_a_killed_writer_left_is_no_shard_and_is_removed(cache: Path) -> None:
    for name in (".partial_0123.safetensors", ".tmpX1"):
        (cache / "shards" / name).write_bytes(b"half")
    assert read_contents(cache).damages == ()
    remove_partial_shards(cache)
    assert len(list((cache / "shards").iterdir())) == 2


def test_a_full_disk_leaves_nothing_behind(cache: Path) -> None:
    before = sorted((cache / "shards").iterdir())
    with full_disk(), pytest.raises(OSError, match="was not written: .*File too large"):
        write_shard(cache, {key_of(0): torch.zeros(1000, HIDDEN_SIZE)})
    assert sorted((cache / "shards").iterdir()) == before


def test_whoever_may_read_the_folder_may_read_its_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write_shard(tmp_path / "new", {key_of(1): rows_of(1)})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_size_that_is_planned_is_that_of_the_file(tmp_path: Path) -> None:
    rows = {key_of(number): torch.zeros(100 + number, 64).bfloat16() for number in range(1000)}
    planned = sum(sample_bytes(len(tensor), row_bytes=64 * 2) for tensor in rows.values())
    assert write_shard(tmp_path, rows).stat().st_size == pytest.approx(planned, rel=1e-3)
