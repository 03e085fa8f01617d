"""The frame and the pieces of `report.html`: with style and plots inside, loading nothing."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from genrecal_mcore.observability.evaluation_table import EvaluationTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT_DPI = 170
_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>$title</title>
<style>
  :root { --ink: #2b2f36; --soft: #5b616b; --line: #e3e6ea; --accent: #2f6690; }
  * { box-sizing: border-box; }
  body { margin: 0; background: #fff; color: var(--ink);
         font: 15px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
  main { max-width: 1040px; margin: 0 auto; padding: 48px 24px 80px; }
  h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
  h2 { font-size: 18px; margin: 48px 0 8px; padding-top: 20px; border-top: 1px solid var(--line); }
  .note { color: var(--soft); font-size: 13.5px; margin: 6px 0 14px; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
  th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 1px solid #c9cdd3; }
  td { text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
  th, td { padding: 7px 10px; vertical-align: bottom; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  td:first-child { font-weight: 600; }
  img { display: block; width: 100%; height: auto; margin: 6px 0 14px; }
  details { border-top: 1px solid var(--line); padding: 8px 0; font-size: 13.5px; }
  summary { cursor: pointer; color: var(--accent); }
  pre { font: 12px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; background: #f7f8f9; padding: 14px 16px;
        border-radius: 6px; overflow-x: auto; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")


def write_page(path: Path, *, title: str, body: Iterable[str]) -> Path:
    """Write a page from pieces of HTML, whole or not at all; return its path."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(_PAGE.substitute(title=escape(title), body="\n".join(body)), encoding="utf-8")
    return unfinished.replace(path)


def note(text: str) -> str:
    """Return a sentence beside a table or a plot."""
    return f"<p class='note'>{escape(text)}</p>"


def captioned(table: EvaluationTable) -> str:
    """Return a table with its caption below."""
    return f"{html_table(table.columns, table.rows)}\n{note(table.caption)}"


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<div class='wide'><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def plot(figure: "Figure", path: Path, *, label: str) -> str:
    """Write a figure to `path` as PNG, and return it as an image inside the page."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PLOT_DPI)
    path.write_bytes(png.getvalue())
    inside = base64.b64encode(png.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{inside}" alt="{escape(label)}">'


def name_of_file(text: str) -> str:
    """Return a name as one of a file."""
    return re.sub(r"\W+", "_", text).strip("_").lower()
