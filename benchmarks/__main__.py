"""Runs the benchmarks, prints their tables, and keeps them as JSON and as a page.

Example: python -m benchmarks packing frozen_head --rounds 5
"""

import importlib
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.keeping import kept_run, read_kept, write_kept
from benchmarks.results import show
from genrecal_mcore.cli.console import table_console

BENCHMARKS = (
    "frozen_head",
    "stage2_step",
    "packing",
    "pipeline",
    "planning",
    "simulation",
    "memory_knobs",
    "cache",
    "data_index",
)
"""Modules with `measure`, in the order of the page."""
DOCS = Path(__file__).parents[1] / "docs"


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(BENCHMARKS)}; all if none.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is run; medians are shown.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder of benchmarks.json and benchmarks.md.")] = DOCS,
) -> None:
    """Run benchmarks one after another; each takes the place of its former result in both files."""
    unknown = sorted(set(names or ()) - set(BENCHMARKS))
    if unknown:
        raise typer.BadParameter(
            f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}"
        )
    console = table_console()
    for name in names or BENCHMARKS:
        console.print(f"{datetime.now():%H:%M} {name} begins, rounds: {rounds}; its table comes at its end")
        benchmark = importlib.import_module(f"benchmarks.{name}").measure(rounds=rounds)
        show(benchmark, console)
        kept = read_kept(out) | {name: kept_run(benchmark)}
        write_kept({name: kept[name] for name in BENCHMARKS if name in kept}, out)


if __name__ == "__main__":
    typer.run(main)
