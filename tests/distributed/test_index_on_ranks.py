"""Ranks that share the making of an index: they hold the index of one, and hear of what any of them finds."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import Builders, Ranks, build_index, load_processor
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_index import content_of

pytestmark = pytest.mark.distributed

NUM_RANKS, NUM_SAMPLES = 3, 50
"""Four pieces."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_tiny_dataset(tmp_path_factory.mktemp("data"), NUM_SAMPLES, seed=4)
    for name in ("001_0.png", "040_0.png"):
        (path.parent / "images" / name).unlink()
    return path


def build(folder: Path, files: list[Path], student: Path, ranks: Ranks) -> dict[str, Any]:
    sources = tuple(DataSource(path=path, images=path.parent / "images", name=path.stem) for path in files)
    data = DataConfig(sources=sources, max_skipped_share=0.1)
    processors = {"teacher": None, "student": load_processor(student)}
    return content_of(build_index(folder, data, processors, builders=Builders(ranks=ranks)))


def built_on_a_rank(folder: Path, files: list[list[Path]], student: Path) -> dict[str, Any] | str:
    """Build the index together; `files` are what each rank sees. Return its content, or what is said."""
    ranks = Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), group=dist.group.WORLD)
    try:
        return build(folder, files[ranks.rank], student, ranks)
    except ValueError as error:
        return str(error)


def test_ranks_that_share_the_check_hold_the_index_of_one_rank(
    data: Path, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    files, student = [data, tiny_folders["data"]], tiny_folders["student"]
    alone = build(tmp_path / "alone", files, student, Ranks())
    assert len(alone["samples"]) == NUM_SAMPLES + 12 - 2
    shared = rank_pool.run(built_on_a_rank, NUM_RANKS, tmp_path / "shared", [files] * NUM_RANKS, student)
    assert shared == [alone] * NUM_RANKS


def test_other_files_on_another_node_are_an_error_on_all_ranks(
    data: Path, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    shutil.copytree(data.parent, tmp_path / "node")
    other = tmp_path / "node" / data.name
    other.write_text(other.read_text() + other.read_text().splitlines()[0] + "\n")
    said = rank_pool.run(
        built_on_a_rank, NUM_RANKS, tmp_path / "index", [[data], [data], [other]], tiny_folders["student"]
    )
    assert len(set(said)) == 1
    assert said[0].startswith("data.sources: rank 2 does not find what rank 0 does, which was when ")
    assert "data.jsonl of the source data had" in said[0] and "give every node the same files" in said[0]


def test_a_line_that_one_rank_cannot_read_is_an_error_on_all(
    data: Path, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    shutil.copytree(data.parent, tmp_path / "data")
    broken = tmp_path / "data" / data.name
    lines = broken.read_text().splitlines()
    lines[20] = lines[20][:-1]
    broken.write_text("\n".join(lines) + "\n")
    said = rank_pool.run(
        built_on_a_rank, NUM_RANKS, tmp_path / "index", [[broken]] * NUM_RANKS, tiny_folders["student"]
    )
    assert len(set(said)) == 1
    assert "data.jsonl, line 21, column" in said[0] and "not JSON" in said[0]
