"""Scores a Hugging Face VLM folder on benchmark files: teacher, student or exported result, all the same way.

Native transformers classes only; nothing of the training is needed to evaluate its result. All files are read
and checked before the model is loaded. What is answered is on disk batch by batch.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from genrecal_mcore.data import Ranks, load_processor
from genrecal_mcore.evaluation.ahead import map_ahead
from genrecal_mcore.evaluation.files import BenchmarkFile
from genrecal_mcore.evaluation.generate import answer_batch
from genrecal_mcore.evaluation.model_inputs import ModelInputs
from genrecal_mcore.evaluation.plan import BenchmarkPlan, check_file, plan_benchmark
from genrecal_mcore.evaluation.report import write_report
from genrecal_mcore.evaluation.results import SCORES_NAME, PartWriter, write_json
from genrecal_mcore.evaluation.scores import BenchmarkScores
from genrecal_mcore.evaluation.settings import AskedModel, EvaluationSettings, model_digest
from genrecal_mcore.native import load_native_model
from genrecal_mcore.observability import CountLine

logger = logging.getLogger(__name__)

ALONE = Ranks()


def evaluate_model(
    model_dir: Path,
    files: Sequence[BenchmarkFile],
    *,
    out: Path,
    settings: EvaluationSettings,
    ranks: Ranks = ALONE,
) -> dict[str, BenchmarkScores]:
    """Ask the model every question of the files; return each benchmark's scores by name (collective).

    Each benchmark has a folder in `out`, see `results`; `out/scores.json` holds the numbers of this call. An
    evaluation that was interrupted goes on; batches do not depend on the number of ranks. Raises
    `ValueError` when `model_dir` is not of a supported family or lacks weights, for files that cannot be
    read, and when `out` holds an evaluation under other settings.
    """
    _check_names(files)
    inputs = ModelInputs(load_processor(model_dir))
    device = settings.chosen_device()
    checked = [check_file(file, inputs, settings=settings, ranks=ranks) for file in files]
    digest = ranks.broadcast_from_first(lambda: model_digest(model_dir))
    asked = AskedModel(folder=model_dir, digest=digest, device=device)
    plans = [
        plan_benchmark(file, asked, out / file.file.name, settings=settings, ranks=ranks) for file in checked
    ]
    if any(plan.remaining for plan in plans):
        model = _load_model(asked)
        for plan in plans:
            _answer(plan, model, inputs, num_workers=settings.num_workers, ranks=ranks)
    ranks.wait_for_all()
    return ranks.broadcast_from_first(lambda: _write_reports(plans, out, model_name=model_dir.name))


def _check_names(files: Sequence[BenchmarkFile]) -> None:
    names = [file.name for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--benchmark: two files are called {twice[0]!r}; give one a name, as NAME=FILE")


def _load_model(asked: AskedModel) -> PreTrainedModel:
    """Load a VLM of any published layout in its stored dtype."""
    if asked.device.type == "cuda":
        torch.cuda.set_device(asked.device)
    return load_native_model(asked.folder, dtype="auto").to(asked.device).eval()


def _answer(
    plan: BenchmarkPlan, model: PreTrainedModel, inputs: ModelInputs, *, num_workers: int, ranks: Ranks
) -> None:
    """Answer this rank's share of a benchmark's remaining batches."""
    share = ranks.share(plan.remaining)
    if plan.finished:
        logger.info("%s: %d batches were answered before", plan.checked.file.name, len(plan.finished))
    title = f"{plan.checked.file.name}: answers"
    if ranks.world_size > 1:
        title += f" of rank {ranks.rank} of {ranks.world_size}"
    writer = PartWriter(plan.folder, rank=ranks.rank)
    batches = map_ahead(lambda n: inputs.batch(plan.batches[n]), share, num_workers=num_workers)
    total = sum(len(plan.batches[number]) for number in share)
    with CountLine(title=title, total=total, is_shown=ranks.rank == 0) as line:
        for number, batch in zip(share, batches, strict=True):
            answers = answer_batch(model, inputs.processor, batch, max_new_tokens=plan.checked.max_new_tokens)
            writer.append(number, [question.index for question in plan.batches[number]], answers)
            line.advance(len(answers))
    writer.close()


def _write_reports(
    plans: Sequence[BenchmarkPlan], out: Path, *, model_name: str
) -> dict[str, BenchmarkScores]:
    scores: Mapping[str, BenchmarkScores] = {
        plan.checked.file.name: write_report(plan, model_name=model_name) for plan in plans
    }
    write_json(out / SCORES_NAME, {name: of_benchmark.as_json() for name, of_benchmark in scores.items()})
    return dict(scores)
