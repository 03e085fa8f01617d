"""A study's table as Markdown and CSV, and what failed; pure text."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from genrecal_mcore.study.running import Failure
from genrecal_mcore.study.statistics import NUM_ERRORS, Row

COLUMNS = (
    *("pair", "task", "arm", "runs", "failed", "mean", "standard deviation"),
    *("difference", "standard error", "seeds of both", "shown"),
)
NOTHING = "-"


def summary_markdown(rows: Iterable[Row], failures: Mapping[str, Failure], *, reference: str) -> str:
    """Return the table in percent, how to read it, and each failure with the end of its log."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(_cells(row, digits=2)) + " |" for row in rows]
    lines += [
        "",
        f"Accuracy on held-out questions in percent. Differences are to `{reference}`, seed by seed;",
    ]
    lines += [f"one is shown when it is more than {NUM_ERRORS} of its standard errors from 0.", ""]
    for failure in failures.values():
        lines += [f"## {failure.job} failed", "", failure.reason, ""]
        if failure.log_tail:
            lines += ["```", *failure.log_tail, "```", ""]
    return "\n".join(lines)


def summary_csv(rows: Iterable[Row]) -> str:
    """Return the same table, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row, digits=None) for row in rows)
    return text.getvalue()


def _cells(row: Row, *, digits: int | None) -> Sequence[str]:
    difference = row.difference
    return (
        *(*row.place, row.arm, str(row.num_runs), str(row.num_failed)),
        _percent(row.mean, digits=digits),
        _percent(row.deviation, digits=digits),
        _percent(difference.mean if difference else None, digits=digits, sign="+"),
        _percent(difference.standard_error if difference else None, digits=digits),
        str(difference.num) if difference else NOTHING,
        NOTHING if difference is None else "yes" if difference.is_shown else "no",
    )


def _percent(share: float | None, *, digits: int | None, sign: str = "") -> str:
    if share is None:
        return NOTHING
    return f"{100 * share:{sign}}" if digits is None else f"{100 * share:{sign}.{digits}f}"
