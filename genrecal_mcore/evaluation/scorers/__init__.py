"""Published scoring rules: an answer in free text and a question in, a verdict out; pure.

One file a family of rules, each with the source that it follows and where it deviates. No rule asks a model.
"""

from genrecal_mcore.evaluation.scorers.chartqa import score_relaxed
from genrecal_mcore.evaluation.scorers.choice import check_answer_is_option, check_is_choice, score_choice
from genrecal_mcore.evaluation.scorers.match import score_match
from genrecal_mcore.evaluation.scorers.mathvista import check_mathvista, score_mathvista
from genrecal_mcore.evaluation.scorers.mmmu import score_mmmu, score_mmmu_pro
from genrecal_mcore.evaluation.scorers.verdict import Scorer, Verdict

__all__ = [
    "Scorer",
    "Verdict",
    "check_answer_is_option",
    "check_is_choice",
    "check_mathvista",
    "score_choice",
    "score_match",
    "score_mathvista",
    "score_mmmu",
    "score_mmmu_pro",
    "score_relaxed",
]
