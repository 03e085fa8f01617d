import json
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import ModelProcessor, SampleIndex, build_index, load_processor, write_skipped
from tests.helpers.tiny_data import make_tiny_dataset

NUM_SAMPLES = 10
BROKEN = {
    2: r"001_0\.png does not exist",
    5: r"004_0\.png cannot be read: image file is truncated",
    6: r"^\d <image> placeholders for \d images",
    8: r"^\d+ tokens are more than data\.max_tokens \(400\)",
}
"""Number in the file of each broken sample, and the reason that it is listed with."""


@pytest.fixture
def processors(model_folders: dict[str, Path]) -> dict[str, ModelProcessor]:
    return load_both(model_folders)


def load_both(folders: dict[str, Path]) -> dict[str, ModelProcessor]:
    return {
        "teacher": load_processor(folders["internvl_qwen2"]),
        "student": load_processor(folders["qwen2_vl"]),
    }


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return make_tiny_dataset(tmp_path / "tiny", NUM_SAMPLES, seed=2)


@pytest.fixture
def broken(whole: Path) -> Path:
    (whole.parent / "images" / "001_0.png").unlink()
    Image.effect_noise((64, 40), 80).save(whole.parent / "images" / "004_0.png")
    picture = (whole.parent / "images" / "004_0.png").read_bytes()
    (whole.parent / "images" / "004_0.png").write_bytes(picture[: len(picture) // 2])
    change_message(whole, number=6, message=0, suffix=" <image>")
    change_message(whole, number=8, message=0, suffix=" really" * 100)
    return whole


def change_message(path: Path, *, number: int, message: int, suffix: str) -> None:
    """Add `suffix` to a message of the record with a number, counted from 1, in place."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[number - 1]["conversations"][message]["value"] += suffix
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def config_of(path: Path, **changes: Any) -> DataConfig:
    source = DataSource(path=path, images=path.parent / "images", name="tiny")
    return DataConfig(**{"sources": (source,), "max_tokens": 400, "max_skipped_share": 0.5} | changes)


def test_whole_samples_are_kept_in_file_order_with_their_facts(
    whole: Path, processors: Mapping[str, ModelProcessor]
) -> None:
    index = build_index(config_of(whole, max_skipped_share=0.0), processors)
    assert [sample.id for sample in index.samples] == [f"sample-{n:03d}" for n in range(NUM_SAMPLES)]
    for sample, facts in zip(index.samples, index.facts, strict=True):
        assert facts.image_sizes == tuple(Image.open(path).size for path in sample.images)
        teacher, student = (processors[role].render(sample, facts.image_sizes) for role in processors)
        assert (facts.teacher_tokens, facts.student_tokens) == (
            len(teacher.input_ids),
            len(student.input_ids),
        )
        assert facts.teacher_answer_tokens == teacher.num_answer_tokens
        assert facts.student_answer_tokens == student.num_answer_tokens


def test_broken_samples_are_left_out_with_their_reasons(
    broken: Path, processors: Mapping[str, ModelProcessor]
) -> None:
    index = build_index(config_of(broken), processors)
    assert [entry.number for entry in index.skipped] == list(BROKEN)
    kept = [n for n in range(1, NUM_SAMPLES + 1) if n not in BROKEN]
    assert [sample.id for sample in index.samples] == [f"sample-{number - 1:03d}" for number in kept]
    for entry in index.skipped:
        assert (entry.id, entry.source) == (f"sample-{entry.number - 1:03d}", "tiny")
        assert re.search(BROKEN[entry.number], entry.reason)


def test_a_sample_too_long_for_one_model_only_is_left_out(
    whole: Path, processors: Mapping[str, ModelProcessor]
) -> None:
    facts = build_index(config_of(whole), processors).facts
    for role in ("teacher", "student"):
        lengths = [getattr(fact, f"{role}_tokens") for fact in facts]
        only = {"teacher": None, "student": None, role: processors[role]}
        index = build_index(config_of(whole, max_tokens=max(lengths) - 1), only)
        longest = [n for n, length in enumerate(lengths, 1) if length == max(lengths)]
        assert [entry.number for entry in index.skipped] == longest


def test_left_out_samples_are_written_one_a_line(
    broken: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    index = build_index(config_of(broken), processors)
    write_skipped(tmp_path / "skipped.jsonl", index)
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == list(BROKEN)
    assert [line["reason"] for line in lines] == [entry.reason for entry in index.skipped]
    assert {(line["id"], line["source"]) for line in lines} >= {
        ("sample-001", "tiny"),
        ("sample-007", "tiny"),
    }


def test_too_many_broken_samples_are_refused_with_counts_and_first_places(
    broken: Path, processors: Mapping[str, ModelProcessor]
) -> None:
    with pytest.raises(ValueError, match=r"^4 of 10 samples are broken.*\(0\.39\)") as refusal:
        build_index(config_of(broken, max_skipped_share=0.39), processors)
    assert "1 x N tokens are more than data.max_tokens (N)" in str(refusal.value)
    assert "The first: tiny number 2, tiny number 5, tiny number 6." in str(refusal.value)
    assert len(build_index(config_of(broken, max_skipped_share=0.4), processors)) == 6


def build_on_ranks(data: DataConfig, folders: dict[str, Path], *, world_size: int) -> list[SampleIndex]:
    """Build the index on threads that stand for ranks and meet in `gather`."""
    shares: list[list[Any]] = [[] for _ in range(world_size)]
    processors = [load_both(folders) for _ in range(world_size)]
    all_there = threading.Barrier(world_size, timeout=30)

    def build(rank: int) -> SampleIndex:
        def gather(share: list[Any]) -> list[list[Any]]:
            shares[rank] = share
            all_there.wait()
            return shares

        return build_index(data, processors[rank], rank=rank, world_size=world_size, gather=gather)

    with ThreadPoolExecutor(world_size) as ranks:
        indices = list(ranks.map(build, range(world_size)))
    assert sorted(len(share) for share in shares) == [3, 3, 4]
    return indices


def test_ranks_that_share_the_check_hold_the_index_of_one_rank(
    broken: Path, model_folders: dict[str, Path], processors: Mapping[str, ModelProcessor]
) -> None:
    alone = build_index(config_of(broken), processors)
    indices = build_on_ranks(config_of(broken), model_folders, world_size=3)
    assert indices == [alone] * 3


def test_the_digest_is_that_of_answers_and_processors(
    whole: Path, processors: Mapping[str, ModelProcessor]
) -> None:
    digests = [build_index(config_of(whole), processors).digest]
    assert build_index(config_of(whole), processors).digest == digests[0]
    digests.append(build_index(config_of(whole), {**processors, "teacher": None}).digest)
    change_message(whole, number=4, message=1, suffix="!")
    digests.append(build_index(config_of(whole), processors).digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("size", "reason"), [((1, 300), "cannot be resized"), ((20000, 20000), "cannot be read")]
)
def test_an_image_of_a_hopeless_size_is_skipped(
    size: tuple[int, int], reason: str, whole: Path, processors: dict[str, ModelProcessor]
) -> None:
    Image.new("1", size).save(whole.parent / "images" / "000_0.png")
    data = DataConfig(
        sources=(DataSource(path=whole, images=whole.parent / "images"),), max_skipped_share=0.5
    )
    (skipped,) = build_index(data, processors).skipped
    assert skipped.number == 1 and reason in skipped.reason


def test_the_digest_tells_images_of_the_same_name_in_other_folders_apart(
    whole: Path, processors: dict[str, ModelProcessor]
) -> None:
    images = whole.parent / "images"
    (images / "other").mkdir()
    (images / "other" / "000_0.png").write_bytes((images / "000_0.png").read_bytes())
    data = DataConfig(sources=(DataSource(path=whole, images=images),))
    before = build_index(data, processors).digest
    whole.write_text(whole.read_text().replace('"000_0.png"', '"other/000_0.png"'))
    assert build_index(data, processors).digest != before


def test_sources_without_samples_are_refused(whole: Path, processors: dict[str, ModelProcessor]) -> None:
    whole.write_text("")
    data = DataConfig(sources=(DataSource(path=whole, images=whole.parent / "images"),))
    with pytest.raises(ValueError, match="data.sources hold no samples"):
        build_index(data, processors)
