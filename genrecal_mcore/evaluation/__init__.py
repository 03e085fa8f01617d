"""Asks a Hugging Face VLM questions and scores its answers.

This room never imports megatron-core: what it evaluates is what is handed over. Start with `evaluate`.
"""

from genrecal_mcore.evaluation.evaluate import (
    EvaluationSettings,
    evaluate_model,
    evaluation_table,
    questions_of,
)
from genrecal_mcore.evaluation.generate import generate_answers
from genrecal_mcore.evaluation.score import KindScore, Scores, exact_match, score

__all__ = [
    "EvaluationSettings",
    "KindScore",
    "Scores",
    "evaluate_model",
    "evaluation_table",
    "exact_match",
    "generate_answers",
    "questions_of",
    "score",
]
