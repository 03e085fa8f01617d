"""Diagnoses a run: writes `diagnostics.json` and `features.safetensors` into its folder.

Their formats stand in docs/design.md.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data import Sample, draw_samples
from genrecal_mcore.data.index import SampleFacts
from genrecal_mcore.diagnostics.paths import PathOutput, student_path, teacher_path
from genrecal_mcore.diagnostics.run_models import RunModels, config_of_run, run_models
from genrecal_mcore.diagnostics.samples import DiagnosedSample, diagnosed_sample, own_cross_entropy
from genrecal_mcore.diagnostics.similarity import (
    GROUP_SIZE,
    mean_cosine_matrix,
    pooled_features,
    random_groups,
)
from genrecal_mcore.diagnostics.swaps import mean_shares, swapped_losses
from genrecal_mcore.observability import DIAGNOSTICS_NAME, FEATURES_NAME, CountLine, diagnosis_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosisSettings:
    """What a run is diagnosed on."""

    num_samples: int = 64
    source: DataSource | None = None
    """The run's own data if left out."""
    step: int | None = None
    """Looks at the checkpoint after this many steps, 0 at the run's beginning; at the newest if left out."""
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What was found: the content of `diagnostics.json`, and of `features.safetensors`."""

    facts: dict[str, Any]
    features: dict[str, torch.Tensor]


def diagnose_run(run_dir: Path, settings: DiagnosisSettings) -> Diagnosis:
    """Diagnose a checkpoint of a run of stage 1 or 2 in this process, and write what was found.

    Raises `ValueError` for other runs, for fewer samples than a cosine matrix needs, and for a checkpoint
    that was diagnosed before unless `overwrite` is set.
    """
    config = config_of_run(run_dir)
    if settings.num_samples < GROUP_SIZE:
        raise ValueError(f"--num-samples must be at least {GROUP_SIZE}, found {settings.num_samples}")
    out = diagnosis_folder(run_dir, step=settings.step)
    if (out / DIAGNOSTICS_NAME).exists() and not settings.overwrite:
        raise ValueError(f"{out / DIAGNOSTICS_NAME} exists; pass --overwrite to replace it")
    data = config.data
    if settings.source is not None:
        data = data.model_copy(update={"sources": (settings.source,)})
    with run_models(run_dir, config, step=settings.step) as models, torch.inference_mode():
        drawn = draw_samples(data, models.processors, num_samples=settings.num_samples)
        diagnosis = diagnose(models, _diagnosed_samples(models, drawn), data)
    _write(out, diagnosis)
    return diagnosis


def diagnose(models: RunModels, samples: Sequence[DiagnosedSample], data: DataConfig) -> Diagnosis:
    """Return what both paths, the swaps and the features of some samples show."""
    student = [student_path(models, of.student, of.teacher) for of in samples]
    teacher = [teacher_path(models, of.teacher) for of in samples]
    features = pooled_features(student, teacher)
    facts = {
        "method": models.config.method,
        "stage": models.config.stage,
        "step": models.step,
        "answer_input": models.config.recalibrator.answer_input,
        "data": [source.path.name for source in data.sources],
        "num_samples": len(samples),
        "own_heads": {
            "student": _perplexity(
                own_cross_entropy(models, of.student, models.student.get_output_embeddings().weight)
                for of in samples
            ),
            "teacher": _perplexity(own_cross_entropy(models, of.teacher, models.head) for of in samples),
        },
        "paths": {"student": _of_path(student), "teacher": _of_path(teacher)},
        "swaps": swapped_losses(models, samples),
        "cosine": _cosines(features),
    }
    return Diagnosis(facts=facts, features=features)


def _diagnosed_samples(
    models: RunModels, drawn: Sequence[tuple[Sample, SampleFacts]]
) -> list[DiagnosedSample]:
    samples = []
    with CountLine(title="samples", total=len(drawn)) as line:
        for sample, facts in drawn:
            samples.append(diagnosed_sample(models, sample, facts))
            line.advance()
    return samples


def _perplexity(sums: Iterable[tuple[float, int]]) -> dict[str, float | int]:
    totals, counts = zip(*sums, strict=True)
    ce = sum(totals) / sum(counts)
    return {"ce": ce, "perplexity": math.exp(ce), "num_tokens": sum(counts)}


def _of_path(outputs: Sequence[PathOutput]) -> dict[str, float | int]:
    sums = ((out.losses.ce.double().sum().item(), len(out.losses.ce)) for out in outputs)
    return _perplexity(sums) | mean_shares(outputs)


def _cosines(features: dict[str, torch.Tensor]) -> dict[str, Any]:
    groups = random_groups(len(features["student_before"]))
    found: dict[str, Any] = {"num_groups": len(groups)}
    for pooling in ("boundary", "all"):
        matrix = mean_cosine_matrix(
            features[f"student_recalibrated_{pooling}"], features[f"teacher_recalibrated_{pooling}"], groups
        )
        is_own = torch.eye(GROUP_SIZE, dtype=torch.bool)
        found[pooling] = {
            "matrix": matrix.tolist(),
            "diagonal": matrix[is_own].mean().item(),
            "off_diagonal": matrix[~is_own].mean().item(),
        }
    return found


def _write(out: Path, diagnosis: Diagnosis) -> None:
    """Write both files under temporary names, then rename them."""
    out.mkdir(parents=True, exist_ok=True)
    features, facts = out / FEATURES_NAME, out / DIAGNOSTICS_NAME
    unfinished = features.with_name(f".{FEATURES_NAME}"), facts.with_name(f".{DIAGNOSTICS_NAME}")
    save_file({name: tensor.contiguous() for name, tensor in diagnosis.features.items()}, unfinished[0])
    unfinished[1].write_text(json.dumps(diagnosis.facts, indent=2) + "\n", encoding="utf-8")
    unfinished[0].replace(features)
    unfinished[1].replace(facts)
