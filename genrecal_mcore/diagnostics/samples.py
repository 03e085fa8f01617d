"""Features of single samples as both models see them, and with another sample's questions or images."""

from dataclasses import dataclass, replace

import torch

from genrecal_mcore.data import AnswerSpan, Microbatch, Sample, View, label_positions
from genrecal_mcore.data.index import SampleFacts
from genrecal_mcore.data.loader import collate_samples
from genrecal_mcore.diagnostics.run_models import RunModels
from genrecal_mcore.losses import student_head_loss
from genrecal_mcore.models import Packing
from genrecal_mcore.training.student_module import student_hidden_states


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleFeatures:
    """One sample in the tokens of one model; features are kept on the CPU."""

    features: torch.Tensor
    """`[s, h]` after the final norm."""
    answer_spans: tuple[AnswerSpan, ...]
    batch: Microbatch
    """The sample alone, without pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosedSample:
    """One sample as both models see it."""

    sample: Sample
    facts: SampleFacts
    teacher: SampleFeatures
    student: SampleFeatures


def diagnosed_sample(models: RunModels, sample: Sample, facts: SampleFacts) -> DiagnosedSample:
    """Run both bodies on a sample."""
    teacher = _batch_of(models, "teacher", sample, facts)
    return DiagnosedSample(
        sample=sample,
        facts=facts,
        teacher=_features(teacher, teacher_features(models, teacher)),
        student=student_features(models, sample, facts),
    )


def student_features(models: RunModels, sample: Sample, facts: SampleFacts) -> SampleFeatures:
    """Run the student's body on a sample."""
    batch = _batch_of(models, "student", sample, facts)
    return _features(batch, student_hidden_states(models.student, batch))


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


def with_image_of(models: RunModels, own: DiagnosedSample, other: DiagnosedSample) -> SampleFeatures:
    """Return what the student makes of a sample's text with another sample's images."""
    sample = replace(own.sample, images=other.sample.images)
    return student_features(models, sample, replace(own.facts, image_sizes=other.facts.image_sizes))


def with_questions_of(own: SampleFeatures, other: SampleFeatures) -> SampleFeatures:
    """Return features whose questions are another sample's, turn by turn, before its own answers."""
    pieces: list[torch.Tensor] = []
    spans: list[AnswerSpan] = []
    length = 0
    for question, (start, end) in zip(_questions(other), own.answer_spans, strict=True):
        pieces += [question, own.features[start:end]]
        length += len(question)
        spans.append((length, length + end - start))
        length += end - start
    return replace(own, features=torch.cat(pieces), answer_spans=tuple(spans))


def own_cross_entropy(models: RunModels, sample: SampleFeatures, head: torch.Tensor) -> tuple[float, int]:
    """Return a model's own CE summed over its answer tokens, through its own `head`, and their number."""
    positions = label_positions(sample.batch)
    ce = student_head_loss(
        sample.features[positions].to(models.device),
        sample.batch.input_ids[0, positions + 1].to(models.device),
        head,
        memory_budget_bytes=models.loss_memory_bytes,
    )
    return ce.item(), len(positions)


def _questions(sample: SampleFeatures) -> list[torch.Tensor]:
    ends = (0, *(end for _, end in sample.answer_spans))
    spans = zip(ends, sample.answer_spans, strict=False)
    return [sample.features[first:start] for first, (start, _) in spans]


def _batch_of(models: RunModels, role: str, sample: Sample, facts: SampleFacts) -> Microbatch:
    view = View(processor=models.processors[role], with_pixels=True)
    return collate_samples([(sample, facts.image_sizes)], view).to(models.device)


def _features(batch: Microbatch, features: torch.Tensor) -> SampleFeatures:
    alone = replace(batch, vision=None).to(torch.device("cpu"))
    return SampleFeatures(features=features.cpu(), answer_spans=batch.answer_spans[0], batch=alone)
