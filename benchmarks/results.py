"""What every benchmark gives: a table of ratios of one run, and the targets it meets or misses.

A benchmark is a module with `measure(*, rounds: int) -> Benchmark`; `python -m benchmarks` runs them all.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table


class Target(BaseModel):
    """A number that was set before it was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    measured: float
    sense: Literal["at most", "at least"]
    limit: float
    unit: str = "x"
    reason: str = ""
    """Why it is missed, where that is known."""

    @property
    def is_met(self) -> bool:
        """Whether the measured value lies on the right side of the limit."""
        if self.sense == "at most":
            return self.measured <= self.limit
        return self.measured >= self.limit


class Benchmark(BaseModel):
    """One table and its targets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    command: str
    """What repeats it."""
    about: str
    """What was compared with what, in a sentence or two."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    targets: Sequence[Target]


def show(benchmark: Benchmark, console: Console) -> None:
    """Print a benchmark's table and what became of its targets."""
    first, *others = benchmark.header
    table = Table(first, title=benchmark.title)
    for column in others:
        table.add_column(column, justify="right")
    for row in benchmark.rows:
        table.add_row(*row)
    console.print(table)
    console.print(benchmark.about, soft_wrap=True, markup=False)
    for target in benchmark.targets:
        console.print(target_text(target), soft_wrap=True, markup=False)


def target_text(target: Target) -> str:
    """Return a target as a line, e.g. `met: loss time, 0.85 x (at most 0.9 x)`."""
    verdict = "met" if target.is_met else "missed"
    line = (
        f"{verdict}: {target.name}, {target.measured:.3g} {target.unit} ({target.sense} {target.limit:g} "
        f"{target.unit})"
    )
    return line if target.is_met or not target.reason else f"{line}: {target.reason}"
