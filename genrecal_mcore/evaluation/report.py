"""Scores a benchmark whose batches are all answered, and writes what it says of the model."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from genrecal_mcore.evaluation.benchmarks import Benchmark
from genrecal_mcore.evaluation.files import Reading
from genrecal_mcore.evaluation.judge_files import write_judge_files
from genrecal_mcore.evaluation.plan import BenchmarkPlan
from genrecal_mcore.evaluation.question import Answer, Question
from genrecal_mcore.evaluation.results import (
    LEFT_OUT_NAME,
    PREDICTIONS_NAME,
    SCORES_NAME,
    read_parts,
    write_json,
    write_json_lines,
)
from genrecal_mcore.evaluation.scorers import Verdict
from genrecal_mcore.evaluation.scores import BenchmarkScores, in_all_rotations, tally, tally_groups

logger = logging.getLogger(__name__)

UNJUDGED = Verdict(understood=None, is_correct=None)


def write_report(plan: BenchmarkPlan, *, model_name: str) -> BenchmarkScores:
    """Merge the ranks' parts, score and write them; return the scores.

    Raises `RuntimeError` when a batch is not there: a rank's file did not reach this host.
    """
    reading = plan.checked.reading
    parts = read_parts(plan.folder)
    missing = sorted(set(range(len(plan.batches))) - parts.keys())
    if missing:
        raise RuntimeError(
            f"{plan.folder} lacks the answers of {len(missing)} batches, e.g. {missing[0]}; all ranks must "
            "write to one disk. Start again: what is there is not asked again"
        )
    answers = {index: answer for batch in parts.values() for index, answer in batch.items()}
    verdicts = {
        question.index: judge(question, answers[question.index].text, reading.benchmark)
        for question in reading.questions
    }
    scores = score(plan.checked.file.name, reading, answers, verdicts)
    write_json_lines(
        plan.folder / PREDICTIONS_NAME,
        (_prediction(q, answers[q.index], verdicts[q.index]) for q in reading.questions),
    )
    write_json_lines(plan.folder / LEFT_OUT_NAME, map(asdict, reading.left_out))
    write_json(plan.folder / SCORES_NAME, scores.as_json())
    files = write_judge_files(
        plan.folder, reading, answers, model=model_name, benchmark=plan.checked.file.name
    )
    if reading.benchmark.judge and scores.num_open:
        logger.info(
            "%s: to be judged by %s: %s",
            scores.benchmark,
            reading.benchmark.judge,
            ", ".join(map(str, files)) or plan.folder / PREDICTIONS_NAME,
        )
    return scores


def judge(question: Question, prediction: str, benchmark: Benchmark) -> Verdict:
    """Return the verdict of the benchmark's rule; one that is open where it has none."""
    return UNJUDGED if benchmark.score is None else benchmark.score(prediction, question)


def score(
    name: str, reading: Reading, answers: Mapping[str, Answer], verdicts: Mapping[str, Verdict]
) -> BenchmarkScores:
    """Return the scores of a benchmark's questions, the rotations of one together as one."""
    questions, judged = list(reading.questions), [verdicts[q.index] for q in reading.questions]
    if reading.benchmark.score is not None:
        questions, judged = in_all_rotations(questions, judged)
    total, groups = tally(judged), tally_groups(questions, judged)
    return BenchmarkScores(
        benchmark=name,
        reported=reading.benchmark.headline.of(total, groups),
        all=total,
        groups=groups,
        num_left_out=len(reading.left_out),
        num_open=len(judged) - total.num,
        num_cut=sum(answer.is_cut for answer in answers.values()),
    )


def _prediction(question: Question, answer: Answer, verdict: Verdict) -> dict[str, Any]:
    return {
        "index": question.index,
        "question": question.turns[-1].question,
        "answer": question.answer,
        "prediction": answer.text,
        "understood": verdict.understood,
        "is_correct": verdict.is_correct,
        "is_cut": answer.is_cut,
        "groups": [list(group) for group in question.groups],
    }
