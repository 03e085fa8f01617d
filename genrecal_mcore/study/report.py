"""Writes a study's `report.html`, one file that needs no network, and its figures as PNGs."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from genrecal_mcore.observability.evaluation_table import EvaluationTable
from genrecal_mcore.observability.report_page import captioned, html_table, note, plot, write_page
from genrecal_mcore.study.study_figures import MissingFigure, StudyFigure, newest_diagnosis, study_figures
from genrecal_mcore.study.study_files import StudyFiles, read_study

NUM_NAMES = 3
"""First columns of the summary that name what a row is about."""


def study_report(out: Path) -> Path:
    """Write `out/report.html` and `out/figures/*.png` from a study's files; return the page's path.

    A figure whose data are missing is named with what would make it. Raises `ValueError` when `out` is not
    the folder of a study.
    """
    study = read_study(out)
    (out / "figures").mkdir(exist_ok=True)
    body = [*_tables(study), *(_section(out, figure) for figure in study_figures(study))]
    return write_page(out / "report.html", title=f"Study {out.name}", body=body)


def _tables(study: StudyFiles) -> Iterator[str]:
    head, *rows = study.summary
    yield "<h2>Summary</h2>"
    yield html_table(head, [[*row[:NUM_NAMES], *map(_rounded, row[NUM_NAMES:])] for row in rows])
    yield note(
        f"Accuracy on held-out questions in percent. Differences are to {study.grid['reference']}, seed by "
        "seed; one is shown when it is more than two of its standard errors from zero."
    )
    failed = [line for line in study.results if line.get("status") == "failed"]
    if failed:
        columns = ("arm", "pair", "task", "seed", "reason")
        yield "<h2>What failed</h2>"
        yield html_table(columns, [[str(line[column]) for column in columns] for line in failed])
    found = cosine_table(study)
    if found.rows:
        yield "<h2>Cosines of every run</h2>"
        yield captioned(found)


def cosine_table(study: StudyFiles) -> EvaluationTable:
    """Return how alike both paths' features of the same sample and of others are, in every diagnosed run."""
    rows = []
    for place in study.places:
        for arm, runs in study.diagnosed(place).items():
            for seed, run in runs.items():
                cosine = newest_diagnosis(run)["cosine"]
                values = [cosine[pooling][key] for pooling in ("boundary", "all") for key in _COSINE_KEYS]
                rows.append((arm, *place, str(seed), *(f"{value:.3f}" for value in values)))
    return EvaluationTable(
        columns=("arm", "pair", "task", "seed", "boundary, own", "others", "all positions, own", "others"),
        rows=tuple(rows),
        caption="Recalibrated features of student and teacher path: the same sample's, and other samples'.",
    )


_COSINE_KEYS = ("diagonal", "off_diagonal")


def _section(out: Path, figure: StudyFigure | MissingFigure) -> str:
    title = f"<h2>{escape(figure.title)}</h2>"
    if isinstance(figure, MissingFigure):
        return f"{title}\n{note(f'Not drawn: {figure.reason}')}"
    image = plot(figure.figure, out / "figures" / f"{figure.name}.png", label=figure.title)
    return f"{title}\n{image}\n{note(figure.caption)}"


def _rounded(cell: str) -> str:
    """Return a fraction with two digits after the point and its sign, other texts as they are."""
    if "." not in cell:
        return cell
    return f"{float(cell):{'+' if cell.startswith('+') else ''}.2f}"
