import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import Builders, ModelProcessor, Turn, build_index, load_processor
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_index import content_of, facts_of, samples_of
from tests.helpers.tiny_sources import records_in, write_parquet, write_tar

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
    whole: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    index = build_index(tmp_path / "index", config_of(whole, max_skipped_share=0.0), processors)
    assert [sample.id for sample in samples_of(index)] == [f"sample-{n:03d}" for n in range(NUM_SAMPLES)]
    for sample, facts in zip(samples_of(index), facts_of(index), strict=True):
        assert facts.image_sizes == tuple(Image.open(image.open()).size for image in sample.images)
        teacher, student = (processors[role].render(sample, facts.image_sizes) for role in processors)
        assert (facts.teacher_tokens, facts.student_tokens) == (
            len(teacher.input_ids),
            len(student.input_ids),
        )
        assert facts.teacher_answer_tokens == teacher.num_answer_tokens
        assert facts.student_answer_tokens == student.num_answer_tokens
        assert facts.num_answers == len(sample.turns)
    totals = index.total_counts(np.array([3, 1]))
    assert totals == {name: sum(getattr(index.facts(number), name) for number in (1, 3)) for name in totals}


def test_broken_samples_are_left_out_with_their_reasons(
    broken: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    index = build_index(tmp_path / "index", config_of(broken), processors)
    assert [entry.number for entry in index.skipped] == list(BROKEN)
    kept = [n for n in range(1, NUM_SAMPLES + 1) if n not in BROKEN]
    assert [sample.id for sample in samples_of(index)] == [f"sample-{number - 1:03d}" for number in kept]
    for entry in index.skipped:
        assert (entry.id, entry.source) == (f"sample-{entry.number - 1:03d}", "tiny")
        assert re.search(BROKEN[entry.number], entry.reason)


def test_a_sample_too_long_for_one_model_only_is_left_out(
    whole: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    facts = facts_of(build_index(tmp_path / "index", config_of(whole), processors))
    for role in ("teacher", "student"):
        lengths = [getattr(fact, f"{role}_tokens") for fact in facts]
        only = {"teacher": None, "student": None, role: processors[role]}
        index = build_index(tmp_path / "index", config_of(whole, max_tokens=max(lengths) - 1), only)
        longest = [n for n, length in enumerate(lengths, 1) if length == max(lengths)]
        assert [entry.number for entry in index.skipped] == longest


def test_left_out_samples_are_written_one_a_line(
    broken: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    index = build_index(tmp_path / "index", config_of(broken), processors)
    index.copy_skipped(tmp_path / "skipped.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == list(BROKEN)
    assert [line["reason"] for line in lines] == [entry.reason for entry in index.skipped]
    assert {(line["id"], line["source"]) for line in lines} >= {
        ("sample-001", "tiny"),
        ("sample-007", "tiny"),
    }


def test_too_many_broken_samples_are_refused_with_counts_and_first_places(
    broken: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"^4 of 10 samples are broken.*\(0\.39\)") as refusal:
        build_index(tmp_path / "index", config_of(broken, max_skipped_share=0.39), processors)
    assert "1 x N tokens are more than data.max_tokens (N)" in str(refusal.value)
    assert "The first: tiny number 2, tiny number 5, tiny number 6." in str(refusal.value)
    assert len(build_index(tmp_path / "index", config_of(broken, max_skipped_share=0.4), processors)) == 6


def test_the_digest_is_that_of_answers_and_processors(
    whole: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    digests = [build_index(tmp_path / "index", config_of(whole), processors).digest]
    assert build_index(tmp_path / "index", config_of(whole), processors).digest == digests[0]
    digests.append(build_index(tmp_path / "index", config_of(whole), {**processors, "teacher": None}).digest)
    change_message(whole, number=4, message=1, suffix="!")
    digests.append(build_index(tmp_path / "index", config_of(whole), processors).digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("size", "reason"), [((1, 300), "cannot be resized"), ((20000, 20000), "cannot be read")]
)
def test_an_image_of_a_hopeless_size_is_skipped(
    size: tuple[int, int], reason: str, whole: Path, processors: dict[str, ModelProcessor], tmp_path: Path
) -> None:
    Image.new("1", size).save(whole.parent / "images" / "000_0.png")
    data = DataConfig(
        sources=(DataSource(path=whole, images=whole.parent / "images"),), max_skipped_share=0.5
    )
    (skipped,) = build_index(tmp_path / "index", data, processors).skipped
    assert skipped.number == 1 and reason in skipped.reason


def test_the_digest_tells_images_of_the_same_name_in_other_folders_apart(
    whole: Path, processors: dict[str, ModelProcessor], tmp_path: Path
) -> None:
    images = whole.parent / "images"
    (images / "other").mkdir()
    (images / "other" / "000_0.png").write_bytes((images / "000_0.png").read_bytes())
    data = DataConfig(sources=(DataSource(path=whole, images=images),))
    before = build_index(tmp_path / "index", data, processors).digest
    whole.write_text(whole.read_text().replace('"000_0.png"', '"other/000_0.png"'))
    assert build_index(tmp_path / "index", data, processors).digest != before


def test_sources_without_samples_are_refused(
    whole: Path, processors: dict[str, ModelProcessor], tmp_path: Path
) -> None:
    whole.write_text("")
    data = DataConfig(sources=(DataSource(path=whole, images=whole.parent / "images"),))
    with pytest.raises(ValueError, match="data.sources hold no samples"):
        build_index(tmp_path / "index", data, processors)


def shards_of(data: Path, folder: Path, kind: str) -> Path:
    """Write the samples of a data set into two shards of a kind and return the folder."""
    write = {"parquet": write_parquet, "tar": write_tar}[kind]
    records = records_in(data)
    for number, share in enumerate((records[:7], records[7:])):
        write(folder / f"{number}.{kind}", share, data.parent / "images")
    return folder


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_other_formats_give_the_samples_of_the_jsonl_file(
    kind: str, whole: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    expected = build_index(tmp_path / "expected", config_of(whole), processors)
    source = DataSource(path=shards_of(whole, tmp_path / "shards", kind), name="tiny")
    index = build_index(tmp_path / "index", config_of(whole, sources=(source,)), processors)
    assert facts_of(index) == facts_of(expected)
    assert [(sample.id, sample.turns, sample.domain) for sample in samples_of(index)] == [
        (sample.id, sample.turns, sample.domain) for sample in samples_of(expected)
    ]


def test_broken_samples_of_a_shard_are_listed_with_it(
    whole: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    shards = shards_of(whole, tmp_path / "shards", "tar")
    write_tar(
        shards / "1.tar", [*records_in(whole)[7:9], {"id": "odd", "image": []}], whole.parent / "images"
    )
    data = config_of(whole, sources=(DataSource(path=shards, name="tiny"),))
    (entry,) = build_index(tmp_path / "index", data, processors).skipped
    assert (entry.id, entry.file, entry.number) == ("odd", "1.tar", 3)
    assert str(entry) == "tiny (1.tar) number 3"


def test_the_digest_is_also_that_of_images_inside_the_files(
    whole: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    data = config_of(whole, sources=(DataSource(path=shards_of(whole, tmp_path / "shards", "parquet")),))
    before = build_index(tmp_path / "index", data, processors)
    Image.new("RGB", before.image_sizes(0)[0]).save(whole.parent / "images" / "000_0.png")
    shards_of(whole, tmp_path / "shards", "parquet")
    after = build_index(tmp_path / "index", data, processors)
    same = [before.digest_of(number) == after.digest_of(number) for number in range(NUM_SAMPLES)]
    assert same == [False] + [True] * (NUM_SAMPLES - 1)
    assert before.digest != after.digest


def test_text_alone_makes_an_index(
    whole: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    asked = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    whole.write_text(json.dumps({"conversations": asked}) + "\n")
    index = build_index(tmp_path / "index", config_of(whole), processors)
    assert index[0].turns == (Turn(question="Why?", answer="So."),)
    assert index.image_sizes(0) == ()


def test_processes_build_the_index_of_one(
    broken: Path, processors: Mapping[str, ModelProcessor], tmp_path: Path
) -> None:
    sources = [{"path": broken, "images": broken.parent / "images", "name": name} for name in "abc"]
    data = config_of(broken, sources=sources)
    alone = build_index(tmp_path / "alone", data, processors)
    shared = build_index(tmp_path / "shared", data, processors, builders=Builders(jobs=2))
    assert content_of(shared) == content_of(alone)
    assert [entry.source for entry in alone.skipped] == [name for name in "abc" for _ in BROKEN]
