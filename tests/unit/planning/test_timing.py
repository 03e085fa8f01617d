"""Predictions of whole layouts: what does not depend on how fast anything is."""

from dataclasses import replace
from pathlib import Path

import pytest

from genrecal_mcore.parallel import Layout, layout_of
from genrecal_mcore.planning import (
    CountedModels,
    Profile,
    TimedLayout,
    Workload,
    assumed_rates,
    check_profile,
    count_models,
    hardware_named,
    load_profile,
    measured_rates,
    predict,
    predict_workload,
    timed_layout,
)
from genrecal_mcore.planning.checks import ranks_needed
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.planning.hardware import GPUS
from genrecal_mcore.planning.timing import features_bytes
from genrecal_mcore.planning.workload import UnitSize
from tests.helpers.planned import published_pair, run_of_stage

FOLDERS = {name: Path(name) for name in ("teacher", "student", "data")}
WORKLOAD = Workload(samples=1000, teacher_tokens=600, student_tokens=500, answer_tokens=40)
PROFILE = Profile(
    device="a device",
    date="2026-11-26",
    versions={"torch": "2.13"},
    stage=2,
    method="genrecal",
    dtype="bfloat16",
    cores=2,
    crowded_pace=0.8,
    seconds_per={Op.TEACHER_LINEARS: 1e-10, Op.FEATURES: 1e-9},
)


@pytest.fixture(scope="module")
def models() -> CountedModels:
    config = run_of_stage(FOLDERS, 2, train={"dtype": "bfloat16"})
    return count_models(config, published_pair("Qwen2-VL-7B", "Qwen2-VL-2B"))


def timed(models: CountedModels, *, teacher_dp: int = 2, student_dp: int = 3, **train: int) -> TimedLayout:
    mesh = {"teacher": {"pp": 2, "dp": teacher_dp}, "student": {"dp": student_dp}}
    train = {"dtype": "bfloat16", "micro_batch_size": 2, "accumulation_steps": 4} | train
    config = run_of_stage(FOLDERS, 2, mesh=mesh, train=train, transfer={"prefetch": 4})
    layout = layout_of(config.mesh, world_size=ranks_needed(config))
    return timed_layout(config, layout, models, assumed_rates(GPUS["h200"], layout))


def test_twice_the_ranks_of_both_sides_do_twice_as_much(models: CountedModels) -> None:
    one = predict_workload(timed(models, teacher_dp=4, student_dp=12), WORKLOAD)
    two = predict_workload(timed(models, teacher_dp=8, student_dp=24), WORKLOAD)
    assert two.samples_per_s == pytest.approx(2 * one.samples_per_s, rel=0.03)


def test_a_step_of_more_microbatches_than_are_simulated_takes_as_much_longer(models: CountedModels) -> None:
    short, long = (
        predict_workload(timed(models, accumulation_steps=n), WORKLOAD).step_seconds for n in (12, 36)
    )
    assert long == pytest.approx(3 * short, rel=0.03)


def test_given_samples_are_dealt_out_as_training_does(models: CountedModels) -> None:
    layout = timed(models)
    samples = WORKLOAD.draw(24, step=0)
    prediction = predict(layout, lambda _: samples)
    assert prediction.samples_per_step == 24 and len(prediction.occupancy) == 2
    shares = (*prediction.occupancy, prediction.student_waits, prediction.student_apart)
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_features_of_stage_1_are_all_rows(models: CountedModels) -> None:
    unit = UnitSize(samples=tuple(WORKLOAD.draw(2, step=0)))
    stage2 = timed(models)
    stage1 = replace(stage2, side=replace(stage2.side, stage=replace(stage2.side.stage, teacher_path=True)))
    row = 3584 * 2
    assert features_bytes(stage1, unit) == unit.teacher.tokens * row
    assert features_bytes(stage2, unit) == (unit.teacher.answer_tokens + 2) * row


def test_a_profile_replaces_what_it_measured_and_links_only_within_a_node(models: CountedModels) -> None:
    near = Layout(teacher=None, student=timed(models).layout.student)
    far = timed(models, student_dp=64).layout
    hardware = hardware_named("h200")
    within, between = (measured_rates(PROFILE, hardware, layout) for layout in (near, far))
    assert within.seconds({Op.TEACHER_LINEARS: 1e10}) == pytest.approx(1.0)
    assert within.seconds_per[Op.ELEMENTWISE] == 0.0 and within.cores == 2
    assert within.seconds_per[Op.FEATURES] == 1e-9
    assert between.seconds_per[Op.FEATURES] == assumed_rates(hardware, far).seconds_per[Op.FEATURES]


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(PROFILE.model_dump_json())
    assert load_profile(path) == PROFILE


def test_a_profile_of_another_run_is_refused() -> None:
    with pytest.raises(ValueError, match="measured with stage 2, but this run has 3; profile it"):
        check_profile(PROFILE, run_of_stage(FOLDERS, 3, train={"dtype": "bfloat16"}))


@pytest.mark.parametrize(("text", "words"), [(None, "does not exist"), ("{}", "device: Field required")])
def test_a_file_that_is_no_profile_is_refused(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_profile(path)
