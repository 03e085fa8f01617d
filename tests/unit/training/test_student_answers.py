"""The student's own answer features in the Recalibrator's input tell no teacher row what comes later."""

from pathlib import Path

import pytest
import torch

from genrecal_mcore.data import Microbatch, ModelProcessor, Sample, Turn, load_processor
from genrecal_mcore.models import (
    Packing,
    Recalibrator,
    initialise_recalibrator,
    load_student,
    use_packed_attention,
)
from genrecal_mcore.training.student_module import student_hidden_states
from genrecal_mcore.training.student_unit import StepCounts, StudentUnit, student_layout

TEACHER_SIZE = 20
ANSWERS = ("It is a blue circle.", "no, the rectangle is yellow")
SAMPLE = Sample(
    id="0",
    images=(),
    turns=tuple(Turn(question=f"Question {n}?", answer=answer) for n, answer in enumerate(ANSWERS)),
    source="test",
)


@pytest.fixture(scope="module")
def batches(tiny_folders: dict[str, Path]) -> dict[str, Microbatch]:
    """Give the sample in the tokens of both models."""
    processors: dict[str, ModelProcessor] = {
        "teacher": load_processor(tiny_folders["teacher_hf"], finds_text_ends=True),
        "student": load_processor(tiny_folders["student"], finds_text_ends=True),
    }
    return {role: p.collate([p.render(SAMPLE, [])]) for role, p in processors.items()}


@torch.no_grad()
def test_another_student_token_changes_no_recalibrated_row_that_knows_less_text(
    batches: dict[str, Microbatch], tiny_folders: dict[str, Path]
) -> None:
    student = load_student(tiny_folders["student"], dtype=torch.float32).eval()
    use_packed_attention(student.model.language_model.config)
    recalibrator = Recalibrator(
        student.config.get_text_config(), teacher_hidden_size=TEACHER_SIZE, num_layers=2
    )
    initialise_recalibrator(recalibrator, std=0.2, seed=0)
    teacher = batches["teacher"]
    payload = torch.randn(
        teacher.input_ids.shape[1], TEACHER_SIZE, generator=torch.Generator().manual_seed(0)
    )
    counts = StepCounts(teacher_answer_tokens=1, student_answer_tokens=1, teacher_tokens=1, num_answers=1)
    unit = StudentUnit(student=batches["student"], teacher=teacher, payload=payload, counts=counts)
    layout = student_layout(unit, with_questions=True)
    packing = Packing.of(layout.bounds, torch.device("cpu"))
    known = known_text(unit)

    def recalibrated() -> torch.Tensor:
        features = student_hidden_states(student, unit.student)
        rows = recalibrator(features[layout.student_rows], payload, layout.source, packing)
        return rows[layout.label_rows]

    before = recalibrated()
    num_unchanged = 0
    for position, (turn, end) in student_ends(unit).items():
        token = unit.student.input_ids[0, position].item()
        unit.student.input_ids[0, position] = (token + 7) % 200
        changed = (recalibrated() != before).any(dim=-1).tolist()
        unit.student.input_ids[0, position] = token
        for row, (of_turn, text) in enumerate(known):
            knows_less = (of_turn, text) < (turn, end)
            assert changed[row] != knows_less, f"student token {position}, label-bearing row {row}"
            num_unchanged += knows_less
    assert num_unchanged > 100


def known_text(unit: StudentUnit) -> list[tuple[int, int]]:
    """Return for each label-bearing row its turn and the bytes of the answer that the teacher knows there."""
    (ends,) = unit.teacher.text_ends
    return [(turn, end) for turn, of_answer in enumerate(ends) for end in (0, *of_answer[:-1])]


def student_ends(unit: StudentUnit) -> dict[int, tuple[int, int]]:
    """Return for each position of a student's answer token its turn and the bytes that are known there."""
    (ends,), (spans,) = unit.student.text_ends, unit.student.answer_spans
    return {
        start + j: (turn, end)
        for turn, ((start, _), of_answer) in enumerate(zip(spans, ends, strict=True))
        for j, end in enumerate(of_answer)
    }
