"""Shows an evaluation table on the terminal."""

from rich.markup import escape
from rich.table import Table

from genrecal_mcore.observability import EvaluationTable


def rich_table(table: EvaluationTable) -> Table:
    """Return the table for rich's console: the first column on the left, numbers on the right."""
    shown = Table(caption=table.caption, caption_justify="left")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    return shown
