"""What must not change a run: how its samples are cut into microbatches, ranks and units in flight."""

from pathlib import Path
from typing import Any

import pytest

from genrecal_mcore.config import RunConfig, validate_teacher_folder
from genrecal_mcore.data import batch_shape, index_of_run, load_processors, num_microbatches, sample_order
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.transfer import HEADER_BYTES
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.first_step import raw_config
from tests.helpers.rank_pool import RankPool
from tests.helpers.training_run import train_run

RTOL_20_STEPS = 1e-5  # worst seen 8.7e-7
STEPS = 20
MOST_TOKENS = 190
"""Tokens of a microbatch under a budget: holds one to four of the tiny samples."""
TERMS = ("loss", "ce_recal", "kl_recal", "ce_reg", "kl_reg", "ce_student", "grad_norm")

VARIANTS = {
    "1x4": {"micro_batch_size": 1, "accumulation_steps": 4},
    "4x1": {"micro_batch_size": 4, "accumulation_steps": 1},
    "dp2": {"micro_batch_size": 1, "accumulation_steps": 2, "dp": 2},
    "prefetch4": {"micro_batch_size": 1, "accumulation_steps": 4, "prefetch": 4},
    "budget": {"micro_batch_size": 1, "accumulation_steps": 4, "micro_batch_tokens": MOST_TOKENS},
    "budget, dp2": {
        "micro_batch_size": 2,
        "accumulation_steps": 1,
        "micro_batch_tokens": MOST_TOKENS,
        "dp": 2,
    },
}


def config_of(
    tiny_folders: dict[str, Path], run_dir: Path, variant: dict[str, int], **changes: Any
) -> dict[str, Any]:
    """Return a run of 20 steps."""
    variant = {"dp": 1, "prefetch": 1, **variant}
    config = raw_config(tiny_folders, run_dir, **changes)
    config["mesh"] = {"teacher": {}, "student": {"dp": variant["dp"]}}
    config["transfer"]["prefetch"] = variant["prefetch"]
    for key in ("micro_batch_size", "accumulation_steps", "micro_batch_tokens"):
        config["train"][key] = variant.get(key)
    config["data"]["max_tokens"] = MOST_TOKENS
    config["train"] |= {"steps": STEPS, "lr": 1e-3, "lr_final": 1e-4}
    return config


def run(
    tiny_folders: dict[str, Path], rank_pool: RankPool, run_dir: Path, variant: dict[str, int], **changes: Any
) -> list[dict[str, Any]]:
    """Train a run of 20 steps and return its metrics."""
    config = config_of(tiny_folders, run_dir, variant, **changes)
    rank_pool.run(train_run, 1 + variant.get("dp", 1), config)
    return read_metrics(run_dir / "metrics.jsonl")


@pytest.fixture(scope="module")
def stage1(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run_dir = tmp_path_factory.mktemp("stage1") / "run"
    run(tiny_folders, rank_pool, run_dir, VARIANTS["1x4"])
    return run_dir


@pytest.mark.distributed
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", ["4x1", "dp2", "prefetch4", "budget", "budget, dp2"])
def test_twenty_steps_do_not_depend_on(
    name: str, stage: int, tiny_folders: dict[str, Path], stage1: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    changes = {"stage": 2, "init_from": stage1} if stage == 2 else {}
    base = run(tiny_folders, rank_pool, tmp_path / "base", VARIANTS["1x4"], **changes)
    other = run(tiny_folders, rank_pool, tmp_path / "other", VARIANTS[name], **changes)
    assert len(base) == len(other) == STEPS
    for expected, found in zip(base, other, strict=True):
        for term in TERMS:
            if expected[term] is not None:
                difference = abs(found[term] - expected[term])
                where = (name, found["step"], term)
                assert_relatively_close(
                    difference, abs(expected[term]), RTOL_20_STEPS, name="20 steps", where=where
                )


@pytest.mark.parametrize("name", ["budget", "budget, dp2"])
def test_under_the_budget_steps_differ_in_their_microbatches(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = RunConfig.model_validate(config_of(tiny_folders, tmp_path, VARIANTS[name]))
    index = index_of_run(config, load_processors(config))
    order, batch = sample_order(config, index), batch_shape(config)
    counts = {num_microbatches(order, step=step, batch=batch) for step in range(STEPS)}
    assert not index.skipped and len(counts) > 1


@pytest.mark.distributed
def test_stage_2_receives_exactly_the_payload_and_small_headers(
    tiny_folders: dict[str, Path], stage1: Path, rank_pool: RankPool, tmp_path: Path
) -> None:
    metrics = run(tiny_folders, rank_pool, tmp_path / "run", VARIANTS["1x4"], stage=2, init_from=stage1)
    hidden_size = validate_teacher_folder(tiny_folders["teacher"]).language.hidden_size
    assert HEADER_BYTES <= 256
    for line in metrics:
        headers = VARIANTS["1x4"]["accumulation_steps"] * HEADER_BYTES
        rows, rest = divmod(line["bytes_received"] - headers, hidden_size * 4)
        assert rest == 0
        # One boundary row an answer beside its n answer rows; the tiny data has one or two answers a sample.
        assert line["answer_tokens_teacher"] + 4 <= rows <= line["answer_tokens_teacher"] + 8


def fine_tune(
    tiny_folders: dict[str, Path], rank_pool: RankPool, run_dir: Path, *, dp: int, **train: Any
) -> list[dict[str, Any]]:
    """Train stage 3, where the projector learns, on samples of which every sixth has no image."""
    config = raw_config(tiny_folders, run_dir, stage=3, method="sft")
    config["mesh"] = {"student": {"dp": dp}}
    config["train"] |= {"micro_batch_size": 1, "accumulation_steps": 4 // dp}
    config["train"] |= {"steps": STEPS, "lr": 1e-3, "lr_final": 1e-4, **train}
    rank_pool.run(train_run, dp, config)
    return read_metrics(run_dir / "metrics.jsonl")


@pytest.fixture(scope="module")
def fine_tuned(
    tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    return fine_tune(tiny_folders, rank_pool, tmp_path_factory.mktemp("stage3") / "run", dp=1)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("dp", "train"),
    [
        pytest.param(2, {}, id="dp2"),
        pytest.param(4, {}, id="dp4"),
        pytest.param(2, {"reshard_after_forward": False}, id="dp2-keeps-weights"),
        pytest.param(2, {"reduce_every_microbatch": True}, id="dp2-reduces-each"),
        pytest.param(1, {"gradient_checkpointing": False}, id="keeps-activations"),
    ],
)
def test_fine_tuning_depends_neither_on_who_has_images_nor_on_what_is_kept(
    dp: int,
    train: dict[str, Any],
    fine_tuned: list[dict[str, Any]],
    tiny_folders: dict[str, Path],
    rank_pool: RankPool,
    tmp_path: Path,
) -> None:
    other = fine_tune(tiny_folders, rank_pool, tmp_path / "other", dp=dp, **train)
    for expected, found in zip(fine_tuned, other, strict=True):
        for term in ("loss", "ce_student", "grad_norm"):
            difference = abs(found[term] - expected[term])
            where = (dp, train, found["step"], term)
            assert_relatively_close(
                difference, abs(expected[term]), RTOL_20_STEPS, name="20 steps", where=where
            )


@pytest.mark.distributed
def test_microbatches_with_and_without_images_add_up_in_bfloat16(
    fine_tuned: list[dict[str, Any]], tiny_folders: dict[str, Path], rank_pool: RankPool, tmp_path: Path
) -> None:
    rounded = fine_tune(tiny_folders, rank_pool, tmp_path / "bfloat16", dp=1, dtype="bfloat16")
    assert abs(rounded[0]["loss"] - fine_tuned[0]["loss"]) <= 2e-2 * fine_tuned[0]["loss"]
    assert rounded[-1]["loss"] < rounded[0]["loss"]
