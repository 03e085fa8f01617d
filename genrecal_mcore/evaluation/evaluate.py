"""Scores a Hugging Face VLM folder on a data file: teacher, student or exported result, all the same way.

Native transformers classes only; nothing of the training is needed to evaluate its result.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Literal

import torch
from transformers import PreTrainedModel

from genrecal_mcore.config import DataConfig, DataSource, family_of_hf_folder
from genrecal_mcore.data import Sample, build_index, load_processor
from genrecal_mcore.data.llava import IMAGE_PLACEHOLDER
from genrecal_mcore.evaluation.generate import generate_answers
from genrecal_mcore.evaluation.score import OTHER, YES_NO, Scores, exact_match, kinds_of, score
from genrecal_mcore.native import load_native_model
from genrecal_mcore.observability import EvaluationTable

logger = logging.getLogger(__name__)

PREDICTIONS_NAME = "predictions.jsonl"
SCORES_NAME = "scores.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """How a model is asked."""

    batch_size: int = 32
    """Questions answered at once: more is faster and takes more memory."""
    max_new_tokens: int = 64
    """An answer that has not ended by then is cut off there."""
    max_skipped_share: float = 0.01
    """Largest share of broken samples that is accepted."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where there is one."""
    overwrite: bool = False
    """Replaces an earlier evaluation in `out`; otherwise a folder that exists is an error."""


def evaluate_model(
    model_dir: Path, *, data_file: Path, images_dir: Path, out: Path, settings: EvaluationSettings
) -> Scores:
    """Ask the model every question of `data_file`; write `out/predictions.jsonl` and `out/scores.json`.

    Each turn of a conversation is one question, asked with the true answers of the turns before it. Broken
    samples are left out, counted in `scores.json` and logged. Raises `ValueError` when `out` exists, when
    `model_dir` is not of a supported family or lacks weights, and when too many samples are broken.
    """
    _check_out(out, overwrite=settings.overwrite)
    processor = load_processor(model_dir, family_of_hf_folder(model_dir))
    source = DataSource(path=data_file, images=images_dir)
    data = DataConfig(sources=(source,), max_skipped_share=settings.max_skipped_share)
    index = build_index(data, {"teacher": None, "student": processor})
    for skipped in index.skipped:
        logger.warning("left out %s number %d: %s", skipped.source, skipped.number, skipped.reason)
    questions = [question for i in range(len(index)) for question in questions_of(index[i])]
    answers = generate_answers(
        _load_model(model_dir, settings.device),
        processor,
        questions,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
    )
    scores = score(answers, questions)
    about = {"model": model_dir.name, "data": data_file.name, "num_skipped_samples": len(index.skipped)}
    _write_results(out, {**about, **_scores_as_json(scores)}, _prediction_lines(answers, questions))
    return scores


def questions_of(sample: Sample) -> list[Sample]:
    """Return one sample for each turn: the conversation up to that turn, with the images that occur in it."""
    questions = []
    for num_turns in range(1, len(sample.turns) + 1):
        turns = sample.turns[:num_turns]
        num_images = sum(turn.question.count(IMAGE_PLACEHOLDER) for turn in turns)
        questions.append(replace(sample, turns=turns, images=sample.images[:num_images]))
    return questions


def evaluation_table(scores_of: Mapping[str, Scores], *, caption: str) -> EvaluationTable:
    """Return a table in percent of several models' scores, by display name: all questions, then each kind."""
    asked = {kind for scores in scores_of.values() for kind in scores.by_kind}
    kinds = sorted(asked, key=lambda kind: (kind not in (YES_NO, OTHER), kind))  # forms, then domains
    rows = [
        (name, _percent(scores.accuracy), *(_percent_of_kind(scores, kind) for kind in kinds))
        for name, scores in scores_of.items()
    ]
    return EvaluationTable(columns=("Model", "all", *kinds), rows=tuple(rows), caption=caption)


def _check_out(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        raise ValueError(f"{out} exists; choose another folder or pass --overwrite")
    if not (out / SCORES_NAME).is_file():
        raise ValueError(
            f"{out} holds no {SCORES_NAME}, so it is no earlier evaluation and is not overwritten"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _percent_of_kind(scores: Scores, kind: str) -> str:
    return _percent(scores.by_kind[kind].accuracy) if kind in scores.by_kind else "-"


def _load_model(folder: Path, device: str) -> PreTrainedModel:
    """Load a VLM of any published layout in its stored dtype."""
    model = load_native_model(folder, dtype="auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def _scores_as_json(scores: Scores) -> dict[str, object]:
    by_kind = {
        kind: {**asdict(of_kind), "accuracy": of_kind.accuracy} for kind, of_kind in scores.by_kind.items()
    }
    return {"num": scores.num, "accuracy": scores.accuracy, "by_kind": by_kind}


def _prediction_lines(answers: Sequence[str], questions: Sequence[Sample]) -> list[dict[str, object]]:
    return [
        {
            "id": question.id,
            "turn": len(question.turns) - 1,
            "kinds": kinds_of(question),
            "question": question.turns[-1].question,
            "answer": question.turns[-1].answer,
            "prediction": prediction,
            "is_correct": exact_match(prediction, question.turns[-1].answer),
        }
        for prediction, question in zip(answers, questions, strict=True)
    ]


def _write_results(out: Path, scores: dict[str, object], predictions: Sequence[dict[str, object]]) -> None:
    """Write both files into a folder beside `out`, then put it in the place of `out`."""
    unfinished = out.with_name(out.name + ".tmp")
    rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    lines = [json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in predictions]
    (unfinished / PREDICTIONS_NAME).write_text("".join(lines), encoding="utf-8")
    (unfinished / SCORES_NAME).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        rmtree(out)
    unfinished.replace(out)
