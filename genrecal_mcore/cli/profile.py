"""`genrecal profile`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.console import table_console
from genrecal_mcore.cli.quiet import quiet_imports
from genrecal_mcore.config import load_run_config


def profile(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("profile.json"),
    rounds: Annotated[int, typer.Option(min=1, help="Times that each part is run; medians count.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier file.")] = False,
) -> None:
    """Time a run's own modules on this machine's device, for `genrecal plan --profile`.

    Example: genrecal profile examples/configs/demo_stage1.yaml --out work/profile.json
    """
    run_config = load_run_config(config, overrides or [])
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; choose another --out or pass --overwrite")
    quiet_imports()
    from genrecal_mcore import planning
    from genrecal_mcore.cli.plan_tables import print_lines, print_table
    from genrecal_mcore.profiling.profile import profile_run

    measured = profile_run(run_config, rounds=rounds)
    planning.write_profile(measured, out)
    console = table_console()
    header = ("what was timed", "what it reaches")
    print_table(console, header, planning.profile_rows(measured), total=False)
    print_lines(console, [f"{measured.title}: written to {out}"])
