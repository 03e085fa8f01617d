"""Asks a Hugging Face VLM the questions of benchmarks and scores its answers by their published rules.

This room never imports megatron-core: what it evaluates is what is handed over. Start with `evaluate`, then
`benchmarks` for what is known by name and `scorers` for the rules.
"""

from genrecal_mcore.evaluation.evaluate import evaluate_model
from genrecal_mcore.evaluation.files import BenchmarkFile
from genrecal_mcore.evaluation.generate import generate_answers
from genrecal_mcore.evaluation.ranks import joined_ranks
from genrecal_mcore.evaluation.scores import BenchmarkScores, Tally
from genrecal_mcore.evaluation.settings import EvaluationSettings
from genrecal_mcore.evaluation.tables import models_table, notes, scores_table

__all__ = [
    "BenchmarkFile",
    "BenchmarkScores",
    "EvaluationSettings",
    "Tally",
    "evaluate_model",
    "generate_answers",
    "joined_ranks",
    "models_table",
    "notes",
    "scores_table",
]
