"""Convert a Hugging Face VLM into a teacher folder for Megatron-core.

Example: python checkpoint_tools/hf2mcore.py --hf-path models/InternVL2_5-78B --out checkpoints/teacher
--verify
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its inspect.py would hide the standard library's

from pathlib import Path
from typing import Annotated, Literal

import typer

from checkpoint_tools.command_line import progress_bar, run_command
from genrecal_mcore.cli.quiet import quiet_imports


def main(
    hf_path: Annotated[Path, typer.Option(help="Hugging Face checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="Teacher folder to write.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Cast to this; otherwise as stored."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Convert back and compare bit by bit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")] = False,
) -> None:
    """Convert a Hugging Face VLM into a teacher folder.

    Example: python checkpoint_tools/hf2mcore.py --hf-path models/InternVL2_5-78B --out checkpoints/teacher
    """
    quiet_imports()
    from checkpoint_tools.conversion import convert_to_mcore

    with progress_bar() as progress:
        convert_to_mcore(hf_path, out, dtype=dtype, verify=verify, overwrite=overwrite, progress=progress)
    typer.echo(f"{hf_path} -> {out}" + (" (round trip verified)" if verify else ""))


if __name__ == "__main__":
    run_command(main)
