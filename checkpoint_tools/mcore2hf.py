"""Write a teacher folder back as a Hugging Face checkpoint.

Example: python checkpoint_tools/mcore2hf.py --mcore-path checkpoints/teacher --out models/teacher-again
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its inspect.py would hide the standard library's

from pathlib import Path
from typing import Annotated

import typer

from checkpoint_tools.command_line import progress_bar, run_command
from genrecal_mcore.cli.quiet import quiet_imports


def main(
    mcore_path: Annotated[Path, typer.Option(help="Teacher folder written by hf2mcore.py.")],
    out: Annotated[Path, typer.Option(help="Hugging Face folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")] = False,
) -> None:
    """Write a teacher folder back as a Hugging Face checkpoint, tensors bit for bit.

    Example: python checkpoint_tools/mcore2hf.py --mcore-path checkpoints/teacher --out models/teacher-again
    """
    quiet_imports()
    from checkpoint_tools.conversion import convert_to_hf

    with progress_bar() as progress:
        convert_to_hf(mcore_path, out, overwrite=overwrite, progress=progress)
    typer.echo(f"{mcore_path} -> {out}")


if __name__ == "__main__":
    run_command(main)
