"""Runs that read the teacher's features from files equal those with teacher ranks; how files come to be."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrecal_mcore.feature_cache import FeatureReader, load_record, read_contents
from genrecal_mcore.feature_cache.shards import shard_keys, shard_paths
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.status import read_statuses
from genrecal_mcore.training.checkpoint import latest_checkpoint, read_model_tensors
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.first_step import first_step, raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import (
    cache_until_student_dies,
    numbers_of,
    resume_run,
    run_cache_pass,
    train_run,
    train_until_student_dies,
)

pytestmark = pytest.mark.distributed

TP, NUM_SAMPLES, STEPS = 2, 12, 20
RTOL_OTHER_UNITS = 1e-5  # worst seen 0: at these sizes products round alike in every unit


def config_of(
    folders: dict[str, Path], run_dir: Path, *, dp: int = 2, cache: Path | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a run whose steps take four samples, one a unit; with `cache`, one without teacher ranks."""
    config = raw_config(folders, run_dir, **changes)
    config["mesh"] = {"teacher": None if cache else {"tp": TP}, "student": {"dp": dp}}
    config["train"] |= {"steps": STEPS, "accumulation_steps": 4 // dp, "lr": 1e-3, "lr_final": 1e-4}
    config["student"]["lora"]["dropout"] = 0.1
    if cache is not None:
        config["teacher"]["read_cache"] = cache
    return config


def pass_config(folders: dict[str, Path], out: Path, **teacher: Any) -> dict[str, Any]:
    config = config_of(folders, out)
    config["teacher"] |= {"write_cache": out} | teacher
    return config


def num_ranks(config: dict[str, Any]) -> int:
    return config["mesh"]["student"]["dp"] + (TP if config["mesh"]["teacher"] else 0)


def rows_of(cache: Path) -> dict[bytes, torch.Tensor]:
    contents = read_contents(cache)
    reader = FeatureReader(contents, contents.keys)
    # Copies: what is read is mapped from files, which some tests damage.
    return {key: reader.read(number).clone() for number, key in enumerate(contents.keys.tolist())}


def written_keys(cache: Path) -> list[str]:
    """Return the keys of all shards, as often as they were written."""
    return [key for path in shard_paths(cache) for key in shard_keys(path)]


def result_of(run_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint is not None
    return read_model_tensors(checkpoint, "")


@pytest.fixture(scope="module")
def stage1(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give a run of stage 1 that filled the cache `answers` beside it."""
    root = tmp_path_factory.mktemp("stage1")
    config = config_of(tiny_folders, root / "run")
    config["train"]["steps"] = 5
    config["teacher"] |= {"write_cache": root / "answers", "cache_shard_mib": 0.002}
    rank_pool.run(train_run, num_ranks(config), config)
    return root / "run"


@pytest.fixture(scope="module")
def caches(
    stage1: Path, tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Give a cache of each kind."""
    everything = tmp_path_factory.mktemp("caches") / "all"
    config = pass_config(tiny_folders, everything, cache_rows="all")
    rank_pool.run(run_cache_pass, num_ranks(config), config)
    return {"answers": stage1.parent / "answers", "all": everything}


def test_a_pass_and_a_stage_1_run_leave_the_same_rows_of_every_sample_once(
    caches: dict[str, Path], tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = pass_config(tiny_folders, tmp_path / "cache")
    rank_pool.run(run_cache_pass, num_ranks(config), config)
    by_pass, by_stage_1 = rows_of(tmp_path / "cache"), rows_of(caches["answers"])
    assert len(by_pass) == NUM_SAMPLES and by_pass.keys() == by_stage_1.keys()
    assert all(torch.equal(by_pass[key], by_stage_1[key]) for key in by_pass)
    for cache in (tmp_path / "cache", caches["answers"]):
        assert len(written_keys(cache)) == NUM_SAMPLES
    assert len(read_contents(caches["answers"]).paths) > 2  # more than the last shard of each rank
    every = rows_of(caches["all"])
    assert all(len(every[key]) > len(by_pass[key]) for key in by_pass)
    assert load_record(tmp_path / "cache") == load_record(caches["answers"])


@pytest.mark.parametrize("dp", [1, 2], ids=["dp1", "dp2"])
def test_twenty_cached_steps_equal_those_with_teacher_ranks_bit_for_bit(
    dp: int,
    tiny_folders: dict[str, Path],
    stage1: Path,
    caches: dict[str, Path],
    rank_pool: RankPool,
    tmp_path: Path,
) -> None:
    for name, cache in (("ranks", None), ("cached", caches["answers"])):
        config = config_of(tiny_folders, tmp_path / name, dp=dp, cache=cache, stage=2, init_from=stage1)
        config["train"]["accumulation_steps"] = 2 // dp
        rank_pool.run(train_run, num_ranks(config), config)
    expected, found = numbers_of(tmp_path / "ranks"), numbers_of(tmp_path / "cached")
    assert len(found) == STEPS
    for line in (*expected, *found):
        assert line.pop("bytes_received") > 0  # with teacher ranks those of headers, too
    assert found == expected
    tensors, others = result_of(tmp_path / "ranks"), result_of(tmp_path / "cached")
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    for line in read_metrics(tmp_path / "cached" / "metrics.jsonl"):
        assert line["teacher_wait_s"] is None
        assert line["student_wait_s"] is not None and line["student_wait_s"] > 0


@pytest.mark.parametrize("dp", [1, 2], ids=["dp1", "dp2"])
@pytest.mark.parametrize("stage", [1, 2])
def test_losses_and_gradients_of_a_cached_step_equal_those_with_teacher_ranks_bit_for_bit(
    stage: int,
    dp: int,
    tiny_folders: dict[str, Path],
    stage1: Path,
    caches: dict[str, Path],
    rank_pool: RankPool,
    tmp_path: Path,
) -> None:
    changes = {"stage": 2, "init_from": stage1} if stage == 2 else {}
    results = []
    for name, cache in (("ranks", None), ("cached", caches["all"])):
        config = config_of(tiny_folders, tmp_path / name, dp=dp, cache=cache, **changes)
        config["train"]["steps"] = 1
        results += [result for result in rank_pool.run(first_step, num_ranks(config), config) if result]
    expected, found = results
    assert found["metrics"]["loss"] == expected["metrics"]["loss"]
    assert found["metrics"]["grad_norm"] == expected["metrics"]["grad_norm"]
    assert found["gradients"].keys() == expected["gradients"].keys()
    assert all(np.array_equal(found["gradients"][name], g) for name, g in expected["gradients"].items())


def test_units_of_several_samples_take_each_samples_own_rows(
    tiny_folders: dict[str, Path],
    stage1: Path,
    caches: dict[str, Path],
    rank_pool: RankPool,
    tmp_path: Path,
) -> None:
    for name, cache in (("ranks", None), ("cached", caches["answers"])):
        config = config_of(tiny_folders, tmp_path / name, cache=cache, stage=2, init_from=stage1)
        config["train"] |= {"steps": 4, "micro_batch_size": 3, "accumulation_steps": 1}
        rank_pool.run(train_run, num_ranks(config), config)
    for expected, found in zip(numbers_of(tmp_path / "ranks"), numbers_of(tmp_path / "cached"), strict=True):
        difference = abs(found["loss"] - expected["loss"])
        assert_relatively_close(
            difference, expected["loss"], RTOL_OTHER_UNITS, name="cached units", where=found["step"]
        )


def test_a_cached_run_that_was_killed_goes_on_as_if_nothing_had_been(
    tiny_folders: dict[str, Path],
    stage1: Path,
    caches: dict[str, Path],
    rank_pool: RankPool,
    tmp_path: Path,
) -> None:
    configs = {
        name: config_of(tiny_folders, tmp_path / name, cache=caches["answers"], stage=2, init_from=stage1)
        for name in ("undisturbed", "killed")
    }
    for config in configs.values():
        config["train"] |= {"steps": 5, "accumulation_steps": 1, "checkpoint_every_steps": 2}
    rank_pool.run(train_run, 2, configs["undisturbed"])
    outcomes = rank_pool.outcomes(train_until_student_dies, 2, configs["killed"], 1, 2)
    assert outcomes[1].exit_code == -signal.SIGKILL
    rank_pool.run(resume_run, 2, configs["killed"])
    assert numbers_of(tmp_path / "killed") == numbers_of(tmp_path / "undisturbed")
    expected, found = result_of(tmp_path / "undisturbed"), result_of(tmp_path / "killed")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_pass_that_was_killed_goes_on_with_what_is_missing(
    caches: dict[str, Path], tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = pass_config(tiny_folders, tmp_path, cache_shard_mib=0.0001)  # a shard a sample
    outcomes = rank_pool.outcomes(cache_until_student_dies, 4, config, TP, 4)
    assert outcomes[TP].exit_code == -signal.SIGKILL
    before = written_keys(tmp_path)
    assert 0 < len(before) < NUM_SAMPLES

    rank_pool.run(run_cache_pass, 4, config)

    assert len(written_keys(tmp_path)) == NUM_SAMPLES
    found, expected = rows_of(tmp_path), rows_of(caches["answers"])
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_second_pass_writes_again_only_what_was_damaged(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = pass_config(tiny_folders, tmp_path, cache_shard_mib=0.0001)
    rank_pool.run(run_cache_pass, 4, config)
    expected = rows_of(tmp_path)
    damaged, *others = sorted((tmp_path / "shards").iterdir())
    written = [path.stat().st_mtime_ns for path in others]
    damaged.write_bytes(damaged.read_bytes()[:-8])
    rank_pool.run(run_cache_pass, 4, config)
    assert [path.stat().st_mtime_ns for path in others] == written
    found = rows_of(tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    logged = (tmp_path / "logs" / "rank_000.log").read_text()
    assert f"{damaged} is damaged or truncated" in logged and "lacks 1 of 12 samples" in logged


def test_a_pass_that_is_asked_to_stop_writes_what_it_has_and_goes_on_later(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    stop_file = tmp_path / "stop"
    stop_file.touch()
    config = pass_config(tiny_folders, tmp_path / "cache")
    outcomes = rank_pool.outcomes(run_cache_pass_until_stopped, 4, config, stop_file)
    assert all("SystemExit: stopped as asked, 1 of 3 steps are done" in o.error for o in outcomes[TP:])
    assert len(written_keys(tmp_path / "cache")) == 4
    stop_file.unlink()
    rank_pool.run(run_cache_pass, 4, config)
    assert len(written_keys(tmp_path / "cache")) == NUM_SAMPLES
    assert [status.end for status in read_statuses(tmp_path / "cache")] == ["finished"] * 4


def run_cache_pass_until_stopped(config: dict[str, Any], stop_file: Path) -> None:
    from genrecal_mcore.training import RunPreempted

    try:
        run_cache_pass(config, stop_file=stop_file)
    except RunPreempted as end:
        # As `genrecal cache` does: a rank that stays would keep its peers waiting.
        raise SystemExit(str(end)) from None


def config_on_a_full_disk(folders: dict[str, Path], out: Path) -> dict[str, Any]:
    (out / "cache").mkdir()
    (out / "cache" / "shards").write_text("a file where shards would stand")
    config = config_of(folders, out / "run")
    config["teacher"] |= {"write_cache": out / "cache", "cache_shard_mib": 0.0001}
    config["train"]["steps"] = 3
    return config


def test_a_cache_that_cannot_be_written_ends_caching_but_not_training(
    tiny_folders: dict[str, Path], stage1: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_on_a_full_disk(tiny_folders, tmp_path)
    rank_pool.run(train_run, 4, config)
    assert len(numbers_of(tmp_path / "run")) == 3
    for rank in (2, 3):
        logged = (tmp_path / "run" / "logs" / f"rank_{rank:03d}.log").read_text()
        assert logged.count("the feature cache takes no more: ") == 1
        assert "0 bytes of 0 samples" in logged


def test_a_cache_that_cannot_be_written_ends_a_pass_with_the_reason(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    config = config_on_a_full_disk(tiny_folders, tmp_path)
    errors = [outcome.error or "" for outcome in rank_pool.outcomes(run_cache_pass, 4, config)]
    assert any("RuntimeError: the feature cache could not be written: " in error for error in errors[TP:])
