"""What is refused of a feature cache before a run begins, by `train` and `plan` in the same words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.config import RunConfig, write_run_config
from genrecal_mcore.data import index_of_run, load_processors, num_sample_rows, sample_keys
from genrecal_mcore.feature_cache import CacheRecord, FeatureWriter, create_record
from genrecal_mcore.training.cache_need import CacheNeed
from genrecal_mcore.training.cache_setup import record_of
from tests.helpers.first_step import raw_config

NUM_SAMPLES = 12
Call = Callable[..., tuple[int, str, str]]


def cached_config(folders: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Return stage 1 without its regularizer on one rank: the rows of answers are enough for it."""
    config = raw_config(folders, tmp_path / "run", recalibrator={"regularizer": False})
    config["mesh"] = {"student": {"dp": 1}}
    config["teacher"] = {"checkpoint": folders["teacher"], "read_cache": tmp_path / "cache"}
    return config


def write_cache(config: RunConfig, folder: Path, record: CacheRecord, *, left_out: int = 0) -> None:
    """Fill a cache with zeros, but for the last samples."""
    create_record(folder, record)
    index = index_of_run(config, load_processors(config))
    keys = sample_keys(index)
    writer = FeatureWriter(folder, shard_bytes=2**30, capacity=1)
    for number in range(len(index) - left_out):
        facts = index.facts(number)
        num_rows = num_sample_rows(
            facts.teacher_answer_tokens,
            len(index[number].turns),
            tokens=facts.teacher_tokens,
            with_questions=record.with_questions,
        )
        writer.put({keys[number].decode(): torch.zeros(num_rows, record.hidden_size)})
    writer.close()


@pytest.fixture
def config(tiny_folders: dict[str, Path], tmp_path: Path) -> RunConfig:
    return RunConfig.model_validate(cached_config(tiny_folders, tmp_path))


@pytest.fixture
def record(config: RunConfig) -> CacheRecord:
    return record_of(config)


@pytest.fixture
def call(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Give a function that runs a verb on a cached run; it returns exit code, output and errors."""
    write_run_config(config, tmp_path / "given.yaml")

    def run(verb: str, *overrides: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["genrecal", verb, str(tmp_path / "given.yaml"), *overrides])
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        if dist.is_initialized():  # a process that ends leaves its group; this one goes on
            dist.destroy_process_group()
        captured = capsys.readouterr()
        # Logging of a run goes to stderr too; an error is said once, in a line of its own.
        errors = "\n".join(x for x in captured.err.splitlines() if x.startswith(("error: ", "  1. ")))
        return int(caught.value.code or 0), captured.out, errors

    return run


def refusal(call: Call, *overrides: str) -> str:
    """Return the one message of `train` and `plan`."""
    refused = call("train", *overrides)
    assert call("plan", *overrides) == refused
    code, out, message = refused
    assert (code, out) == (2, "")
    return message


def test_a_folder_that_is_no_cache(call: Call, tmp_path: Path) -> None:
    message = refusal(call)
    assert (
        f"{tmp_path / 'cache' / 'cache.json'} does not exist; name a feature cache, or write one" in message
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "value"), [("teacher", "0" * 64), ("processor", "1" * 64), ("dtype", "bfloat16")]
)
def test_a_cache_of_another_teacher_or_processor(
    field: str, value: str, call: Call, record: CacheRecord, tmp_path: Path
) -> None:
    create_record(tmp_path / "cache", record.model_copy(update={field: value}))
    message = refusal(call)
    assert f"was written with {field} {value}, not {getattr(record, field)}; name another cache" in message
    assert not (tmp_path / "run").exists()


def test_a_teacher_whose_tokenizer_changed_is_another_processor(
    call: Call, record: CacheRecord, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    create_record(tmp_path / "cache", record)
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_folders["teacher"], teacher)
    path = teacher / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added": True}))
    assert f"with processor {record.processor}, not" in refusal(call, f"teacher.checkpoint={teacher}")


def test_answers_alone_for_a_stage_that_needs_questions_too(
    call: Call, record: CacheRecord, tmp_path: Path
) -> None:
    create_record(tmp_path / "cache", record)
    message = refusal(call, "recalibrator.regularizer=true")
    assert "holds the rows of answers, but stage 1 as configured needs those of questions too" in message


def test_samples_that_are_missing_are_counted_and_the_first_is_named(
    call: Call, config: RunConfig, record: CacheRecord, tmp_path: Path
) -> None:
    write_cache(config, tmp_path / "cache", record, left_out=5)
    message = refusal(call)
    assert f"{tmp_path / 'cache'} lacks 5 of 12 samples, the first is sample-007 of data; " in message
    assert f"genrecal cache CONFIG --out {tmp_path / 'cache'}, with teacher ranks in mesh.teacher" in message
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_sample_whose_text_or_image_changed_is_missing(
    call: Call, config: RunConfig, record: CacheRecord, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    write_cache(config, tmp_path / "cache", record)
    shutil.copytree(tiny_folders["data"].parent, tmp_path / "data")
    data, images = tmp_path / "data" / "data.jsonl", tmp_path / "data" / "images"
    source = f"data.sources=[{{path: {data}, images: {images}}}]"
    assert call("plan", source)[0] == 0  # moved, not changed
    data.write_text(data.read_text().replace("How many images?", "How many pictures?", 1))
    shutil.copy(images / "001_0.png", images / "000_0.png")
    assert "lacks 2 of 12 samples" in refusal(call, source)


def test_a_truncated_file_is_named_beside_its_samples(
    call: Call, config: RunConfig, record: CacheRecord, tmp_path: Path
) -> None:
    write_cache(config, tmp_path / "cache", record)
    (path,) = (tmp_path / "cache" / "shards").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    message = refusal(call)
    assert "lacks 12 of 12 samples" in message
    assert f"{path} is damaged or truncated (" in message and message.endswith("; remove it")


def test_a_damaged_sample_ends_a_run_that_comes_to_it_with_the_file(
    call: Call, config: RunConfig, record: CacheRecord, tmp_path: Path
) -> None:
    write_cache(config, tmp_path / "cache", record)
    (path,) = (tmp_path / "cache" / "shards").iterdir()
    data = bytearray(path.read_bytes())
    data[-NUM_SAMPLES * 400 :: 8] = bytes(byte ^ 1 for byte in data[-NUM_SAMPLES * 400 :: 8])
    path.write_bytes(data)
    code, _, message = call("train", "train.steps=12")
    assert code == 1
    assert f"error: {path} cannot be read: sample" in message and "is not as it was written" in message
    assert "remove that file and run genrecal cache again" in message


def test_rows_that_another_version_rendered_end_a_run(
    call: Call, config: RunConfig, record: CacheRecord, tmp_path: Path
) -> None:
    write_cache(config, tmp_path / "cache", record.model_copy(update={"rows": "all"}))
    create_record(tmp_path / "cache", record)
    code, _, message = call("train")
    assert code == 1
    assert "was written by another version of this program; write another cache" in message


def test_a_plan_says_what_a_cache_takes_and_what_it_lacks(
    call: Call, config: RunConfig, record: CacheRecord, tmp_path: Path
) -> None:
    write_cache(config, tmp_path / "cache", record, left_out=4)
    writes = ("teacher.read_cache=null", f"teacher.write_cache={tmp_path / 'cache'}", "mesh.teacher={}")
    code, out, _ = call("plan", *writes)
    assert code == 0
    said = next(line for line in out.splitlines() if "cache" in line)
    assert f"The feature cache {tmp_path / 'cache'} lacks 4 of 12 samples, " in said
    assert "KiB a sample" in said and " are free there." in said
    code, out, _ = call("plan", *writes, "data.sources=[{path: away.jsonl, images: away}]")
    assert code == 0
    assert "away.jsonl is not here: samples were not counted. A row of a feature cache takes 160 B." in out


def test_a_plan_says_that_a_cache_serves_the_run(
    call: Call, config: RunConfig, record: CacheRecord, tmp_path: Path
) -> None:
    write_cache(config, tmp_path / "cache", record)
    code, out, _ = call("plan")
    assert code == 0
    assert f"The feature cache {tmp_path / 'cache'} holds each of the 12 samples." in out


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path: Path) -> None:
    need = CacheNeed(
        folder=tmp_path,
        num_samples=4,
        num_missing=3,
        sample_bytes=2**40,
        missing_bytes=3 * 2**40,
        free_bytes=2**30,
    )
    with pytest.raises(
        ValueError, match=r"lacks 3 of 4 samples, 3\.0 TiB \(1\.0 TiB a sample\); 1\.0 GiB are"
    ):
        need.check_room()


def test_what_is_planned_for_a_cache_is_what_it_takes(
    config: RunConfig, record: CacheRecord, tmp_path: Path
) -> None:
    index = index_of_run(config, load_processors(config))
    keys = sample_keys(index)
    nothing = torch.ones(len(index), dtype=torch.bool).numpy()
    for rows in ("answers", "all"):
        folder, of_rows = tmp_path / rows, record.model_copy(update={"rows": rows})
        write_cache(config, folder, of_rows)
        need = CacheNeed.of(folder, index, of_rows, keys=keys, is_missing=nothing)
        (path,) = (folder / "shards").iterdir()
        assert need.missing_bytes == pytest.approx(path.stat().st_size, rel=0.03)


def test_a_pass_without_teacher_ranks_is_refused_before_anything_is_written(
    call: Call, tmp_path: Path
) -> None:
    code, _, message = call("cache", "--out", str(tmp_path / "written"))
    assert code == 2
    assert "mesh.teacher is missing; method genrecal, stage 1 needs a teacher" in message
    assert not (tmp_path / "written").exists()
