import pytest

from genrecal_mcore.data import BatchShape
from genrecal_mcore.planning.workload import PackedSize, PairedSize, SampleSize, Workload, units_of

WORKLOAD = Workload(
    samples=1000, teacher_tokens=2500, student_tokens=1200, answer_tokens=256, teacher_tile=256, seed=3
)


def test_draws_have_the_means_that_were_asked_for() -> None:
    samples = WORKLOAD.draw(4000, step=0)
    for field, mean in (("tokens", 2500), ("answer_tokens", 256)):
        assert sum(getattr(s.teacher, field) for s in samples) / 4000 == pytest.approx(mean, rel=0.02)
    assert sum(s.student.tokens for s in samples) / 4000 == pytest.approx(1200, rel=0.02)


def test_draws_repeat_and_differ_from_step_to_step() -> None:
    assert WORKLOAD.draw(5, step=1) == WORKLOAD.draw(5, step=1) != WORKLOAD.draw(5, step=2)


def test_images_come_in_whole_tiles_where_there_are_any() -> None:
    for sample in WORKLOAD.draw(50, step=0):
        assert set(sample.teacher.features_per_item) == {256}
        assert len(sample.student.features_per_item) == 1


def test_answers_longer_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="have 200 tokens on average, but their answers 256; lower --answer"):
        Workload(samples=1, teacher_tokens=2500, student_tokens=200, answer_tokens=256)


def test_every_sample_is_in_one_unit() -> None:
    samples = WORKLOAD.draw(36, step=0)
    units = units_of(samples, BatchShape(micro_batch_size=3, accumulation_steps=4, student_dp=3))
    assert len(units) == 12
    assert sorted(s.longest for unit in units for s in unit.samples) == sorted(s.longest for s in samples)


def test_a_packed_size_sums_pairs_sample_by_sample() -> None:
    size = PackedSize.of([SampleSize(tokens=3, answer_tokens=1), SampleSize(tokens=2, answer_tokens=1)])
    assert (size.tokens, size.causal_pairs, size.boundary_rows) == (5, 6 + 3, 2)


def test_the_recalibrated_sequence_has_the_students_question_and_the_teachers_answer() -> None:
    sample = PairedSize(
        teacher=SampleSize(tokens=20, answer_tokens=7), student=SampleSize(tokens=11, answer_tokens=4)
    )
    (unit,) = units_of([sample], BatchShape(micro_batch_size=1, accumulation_steps=1, student_dp=1))
    assert (unit.recalibrated.tokens, unit.recalibrated.answer_tokens) == (11 - 4 + 7, 7)
