"""Layouts for published pairs: what is proposed fits, tiles the GPUs and can be trained as printed."""

from typing import Any

import pytest

from genrecal_mcore.config import run_config_of
from genrecal_mcore.parallel import layout_of
from genrecal_mcore.planning import (
    PlannedModels,
    Search,
    Workload,
    assumed_rates,
    check_fits,
    count_models,
    named_model,
    named_teacher,
    overrides,
    planned_run,
    propose,
    refusal_lines,
    zero3,
)
from genrecal_mcore.planning.candidates import replicas
from genrecal_mcore.planning.hardware import GPUS
from genrecal_mcore.planning.proposals import usable_memory

TARGET_DAYS = 2.0
"""Of stage 2 over 9M samples on 256 A100-80GB, set before it was computed."""


def search_of(
    teacher: str | None, student: str, *, gpus: int, gpu: str = "a100-80g", stage: int = 2
) -> Search:
    config = planned_run(stage=stage, teacher=teacher, student=student, max_tokens=3750, overrides=())
    named = PlannedModels(
        student=named_model(student, dtype="bfloat16"),
        teacher=named_teacher(teacher, dtype="bfloat16") if teacher else None,
    )
    models = count_models(config, named)
    workload = Workload(
        samples=9_000_000,
        teacher_tokens=2500,
        student_tokens=2500,
        answer_tokens=256,
        teacher_tile=models.teacher.shapes.vision.tokens_per_tile if models.teacher else None,
        student_tile=models.student.shapes.vision.tokens_per_tile,
    )
    return Search(
        config=config,
        models=models,
        hardware=GPUS[gpu],
        num_gpus=gpus,
        workload=workload,
        samples_per_step=8192,
        rates_of=lambda layout: assumed_rates(GPUS[gpu], layout),
    )


@pytest.fixture(scope="module")
def internvl() -> Search:
    return search_of("InternVL2.5-78B", "InternVL2.5-8B", gpus=256)


def as_trained(search: Search, keys: list[str]) -> Any:
    """Return the configuration of a run with printed keys behind it."""
    raw = search.config.model_dump(mode="json", exclude_defaults=True)
    return run_config_of(raw, keys, where="the test")


def test_what_is_proposed_fits_tiles_the_gpus_and_can_be_trained_as_printed(internvl: Search) -> None:
    proposals = propose(internvl, top=2)
    assert len(proposals.best) == 2
    rates = [proposal.prediction.samples_per_s for proposal in proposals.best]
    assert rates == sorted(rates, reverse=True)
    assert proposals.best[0].prediction.days(9_000_000) <= TARGET_DAYS
    for proposal in proposals.best:
        check_fits(proposal.kinds, proposal.config, available_bytes=usable_memory(internvl.hardware))
        assert proposal.timed.layout.world_size == 256
        assert proposal.timed.layout.teacher.size % 8 == 0  # nodes of its own
        trained = as_trained(internvl, list(overrides(proposal.config)))
        assert layout_of(trained.mesh, world_size=256) == proposal.timed.layout
        assert trained.train == proposal.config.train


def test_qwen2_vl_72b_teaches_2b_in_less_than_the_days_that_were_set() -> None:
    (best,) = propose(search_of("Qwen2-VL-72B", "Qwen2-VL-2B", gpus=256), top=1).best
    assert best.prediction.days(9_000_000) <= TARGET_DAYS


def test_what_fits_nowhere_is_refused_with_what_lacks_least() -> None:
    proposals = propose(search_of("Qwen2-VL-72B", "Qwen2-VL-2B", gpus=2), top=1)
    assert not proposals.best and proposals.num_refused > 0
    with pytest.raises(ValueError, match=r"none of \d+ layouts fits.*\n.*teacher stage 0, rank 0: needs"):
        refusal_lines(proposals)


def test_a_stage_without_a_teacher_gives_all_gpus_to_the_student() -> None:
    (best,) = propose(search_of(None, "Qwen2-VL-2B", gpus=16, stage=3), top=1).best
    assert best.timed.layout.teacher is None and best.timed.layout.student.dp == 16


def test_replicas_fill_whole_nodes_and_lie_next_to_balance(internvl: Search) -> None:
    # Eight ranks of 1 s a unit against a student of 2 s: 256 / (2 + 8) = 25.6 replicas.
    assert replicas(internvl, ranks=8, slowest=1.0, student=2.0) == [25, 26]
    # Three ranks a replica: eight of them fill three nodes.
    assert replicas(internvl, ranks=3, slowest=1.0, student=2.0) == [48, 56]


def test_zero3_computes_as_much_and_gathers_both_models(internvl: Search) -> None:
    found = zero3(internvl)
    weights = 2 * (78.4e9 + 8.1e9)
    assert found.unit_gathered_bytes == pytest.approx(weights + 2 * 8.1e9, rel=0.05)
    assert found.step_seconds < found.step_seconds_apart
