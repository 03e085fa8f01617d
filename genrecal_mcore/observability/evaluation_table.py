"""A table of results as text, for the terminal and for the report."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTable:
    """Scores of several models, ready to print: the first column names the model, the others hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    """What was asked, of how many questions, and what the numbers are."""
