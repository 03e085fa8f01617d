"""Scores as tables for people."""

from collections.abc import Mapping, Sequence

from genrecal_mcore.evaluation.files.conversations import OTHER, YES_NO
from genrecal_mcore.evaluation.scores import BenchmarkScores, Tally
from genrecal_mcore.observability import EvaluationTable


def scores_table(scores: Sequence[BenchmarkScores]) -> EvaluationTable:
    """Return what each benchmark reports of one model, and below it the tallies of its groups, in percent."""
    rows = [row for of_benchmark in scores for row in _rows(of_benchmark)]
    return EvaluationTable(columns=("benchmark", "of", "questions", "%"), rows=tuple(rows), caption="")


def _rows(scores: BenchmarkScores) -> list[tuple[str, ...]]:
    groups = [
        ("", f"{column}: {value}", str(tally.num), _percent(tally.accuracy))
        for column, tallies in scores.groups.items()
        for value, tally in tallies.items()
    ]
    reported = scores.reported
    return [(scores.benchmark, reported.text, str(reported.num), _percent(reported.value)), *groups]


def notes(scores: BenchmarkScores) -> list[str]:
    """Return sentences on what a benchmark's number does not say by itself."""
    found = []
    if scores.num_left_out:
        found.append(f"{scores.num_left_out} broken rows were left out")
    if scores.num_open and not scores.all.num:
        found.append(f"{scores.num_open} answers wait for a judge")
    elif scores.num_open:
        asked = scores.all.num + scores.num_open
        found.append(
            f"{scores.num_open} of {asked} answers need a judge and are in no number; at least "
            f"{100 * scores.all.num_correct / asked:.1f} % are right"
        )
    if scores.num_cut:
        found.append(f"{scores.num_cut} answers were cut off; raise --max-new-tokens")
    return [f"{scores.benchmark}: {sentence}" for sentence in found]


def models_table(scores_of: Mapping[str, BenchmarkScores], *, caption: str) -> EvaluationTable:
    """Return a table in percent of several models' scores on conversations: all questions, then each kind.

    A kind is the form of the answer or the domain of the sample.
    """
    kinds_of = {
        name: {value: t for tallies in reversed([*scores.groups.values()]) for value, t in tallies.items()}
        for name, scores in scores_of.items()
    }
    asked = {kind for kinds in kinds_of.values() for kind in kinds}
    columns = sorted(asked, key=lambda kind: (kind not in (YES_NO, OTHER), kind))  # forms, then domains
    rows = [
        (name, _percent(scores.reported.value), *(_percent_of(kinds_of[name].get(kind)) for kind in columns))
        for name, scores in scores_of.items()
    ]
    return EvaluationTable(columns=("Model", "all", *columns), rows=tuple(rows), caption=caption)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _percent_of(tally: Tally | None) -> str:
    return _percent(None if tally is None else tally.accuracy)
