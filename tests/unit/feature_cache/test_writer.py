"""The thread that fills shards: bounded, in order, ended by a full disk without harm."""

import threading
from pathlib import Path

import torch

from genrecal_mcore.feature_cache import FeatureWriter, read_contents
from genrecal_mcore.feature_cache.writer import MAX_SHARD_SAMPLES
from tests.helpers.full_disk import full_disk

ROWS = torch.arange(24, dtype=torch.float32).reshape(3, 8)
SAMPLE_BYTES = ROWS.nbytes


def key_of(number: int) -> str:
    return f"{number:032x}"


def shard_sizes(folder: Path) -> list[int]:
    contents = read_contents(folder)
    return sorted((contents.shards == number).sum() for number in range(len(contents.paths)))


def test_a_shard_is_written_when_it_is_full_and_the_rest_at_the_end(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path, shard_bytes=3 * SAMPLE_BYTES, capacity=2)
    for number in range(7):
        writer.put({key_of(number): ROWS + number})
    writer.close()
    assert shard_sizes(tmp_path) == [1, 3, 3]
    assert (writer.samples_written, writer.bytes_written) == (7, 7 * SAMPLE_BYTES)
    assert writer.problem is None


def test_shards_of_very_short_samples_are_bounded_by_their_number(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path, shard_bytes=2**40, capacity=1)
    writer.put({key_of(number): ROWS[:1] for number in range(MAX_SHARD_SAMPLES)})
    writer.put({key_of(MAX_SHARD_SAMPLES): ROWS[:1]})
    writer.close()
    assert shard_sizes(tmp_path) == [1, MAX_SHARD_SAMPLES]


def test_rows_of_a_unit_do_not_keep_the_whole_unit_in_memory(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path, shard_bytes=2**40, capacity=1)
    writer.put({key_of(1): ROWS[1:2]})
    writer.put({})  # the one before is taken when this one is
    writer.put({})
    assert writer._rows[key_of(1)].untyped_storage().nbytes() == ROWS[1:2].nbytes
    writer.close()


def test_whoever_gives_more_than_the_disk_takes_waits_for_it(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path, shard_bytes=1, capacity=2)
    is_free = threading.Event()
    writer._thread.submit(is_free.wait)  # the disk is busy
    writer.put({key_of(1): ROWS})
    writer.put({key_of(2): ROWS})
    assert not is_free.is_set()
    timer = threading.Timer(0.05, is_free.set)
    timer.start()
    writer.put({key_of(3): ROWS})
    assert is_free.is_set()
    assert writer.waited_s > 0
    writer.close()
    timer.join()
    assert shard_sizes(tmp_path) == [1, 1, 1]


def test_a_full_disk_ends_caching_and_keeps_what_is_whole(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path, shard_bytes=SAMPLE_BYTES, capacity=1)
    writer.put({key_of(1): ROWS})
    writer.put({})
    writer.put({})
    with full_disk():
        writer.put({key_of(2): torch.zeros(1000, 8)})
        writer.put({})
        writer.put({})
    assert writer.problem is not None
    assert "File too large" in writer.problem
    assert f"{SAMPLE_BYTES} bytes of 1 samples" in writer.problem
    writer.put({key_of(3): ROWS})
    writer.close()
    assert shard_sizes(tmp_path) == [1]
