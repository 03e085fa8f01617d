"""Features of single samples as both models see them, and with another sample's questions or images."""

from dataclasses import dataclass, replace

import torch
from PIL import Image

from genrecal_mcore.data import AnswerSpan, Microbatch, Sample, label_positions
from genrecal_mcore.data.index import SampleFacts
from genrecal_mcore.diagnostics.run_models import RunModels
from genrecal_mcore.losses import student_head_loss
from genrecal_mcore.models import Packing
from genrecal_mcore.training.student_module import student_hidden_states


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One sample in the tokens of one model; features are kept on the CPU."""

    features: torch.Tensor
    """`[s, h]` after the final norm."""
    answer_spans: tuple[AnswerSpan, ...]
    batch: Microbatch
    """The sample alone, without pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleViews:
    """One sample as both models see it."""

    sample: Sample
    facts: SampleFacts
    teacher: View
    student: View


def views_of(models: RunModels, sample: Sample, facts: SampleFacts) -> SampleViews:
    """Run both bodies on a sample."""
    teacher = _batch_of(models, "teacher", sample, facts)
    return SampleViews(
        sample=sample,
        facts=facts,
        teacher=_view(teacher, teacher_features(models, teacher)),
        student=student_view(models, sample, facts),
    )


def student_view(models: RunModels, sample: Sample, facts: SampleFacts) -> View:
    """Run the student's body on a sample."""
    batch = _batch_of(models, "student", sample, facts)
    return _view(batch, student_hidden_states(models.student, batch))


def teacher_features(models: RunModels, batch: Microbatch) -> torch.Tensor:
    """Return the teacher's features `[s, h_t]` of a microbatch."""
    teacher, vision = models.teacher, batch.vision
    features = None
    if vision is not None:
        features = teacher.all_gather_image_features(
            vision.pixel_values, vision.image_grid_thw, vision.features_per_item
        )
    packing = Packing.of(batch.bounds, models.device)
    return teacher.body(teacher.embed(batch.input_ids, features), batch.position_ids, packing)[:, 0]


def with_image_of(models: RunModels, views: SampleViews, other: SampleViews) -> View:
    """Return the student's view of a sample's text with another sample's images."""
    sample = replace(views.sample, images=other.sample.images, image_names=other.sample.image_names)
    return student_view(models, sample, replace(views.facts, image_sizes=other.facts.image_sizes))


def with_questions_of(own: View, other: View) -> View:
    """Return a view whose questions are another sample's, turn by turn, before its own answers."""
    pieces: list[torch.Tensor] = []
    spans: list[AnswerSpan] = []
    length = 0
    for question, (start, end) in zip(_questions(other), own.answer_spans, strict=True):
        pieces += [question, own.features[start:end]]
        length += len(question)
        spans.append((length, length + end - start))
        length += end - start
    return replace(own, features=torch.cat(pieces), answer_spans=tuple(spans))


def own_cross_entropy(models: RunModels, view: View, head: torch.Tensor) -> tuple[float, int]:
    """Return a model's own CE summed over its answer tokens, through its own `head`, and their number."""
    positions = label_positions(view.batch)
    ce = student_head_loss(
        view.features[positions].to(models.device),
        view.batch.input_ids[0, positions + 1].to(models.device),
        head,
        memory_budget_bytes=models.loss_memory_bytes,
    )
    return ce.item(), len(positions)


def _questions(view: View) -> list[torch.Tensor]:
    ends = (0, *(end for _, end in view.answer_spans))
    return [view.features[first:start] for first, (start, _) in zip(ends, view.answer_spans, strict=False)]


def _batch_of(models: RunModels, role: str, sample: Sample, facts: SampleFacts) -> Microbatch:
    processor = models.processors[role]
    images = []
    for path in sample.images:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    rendered = processor.render(sample, facts.image_sizes)
    return processor.collate([rendered], processor.pixels(images)).to(models.device)


def _view(batch: Microbatch, features: torch.Tensor) -> View:
    alone = replace(batch, vision=None).to(torch.device("cpu"))
    return View(features=features.cpu(), answer_spans=batch.answer_spans[0], batch=alone)
