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
from genrecal_mcore.cli.quiet import quick_imports, quiet_imports


def main(
    hf_path: Annotated[Path, typer.Option(help="Hugging Face checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="Teacher folder to write.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Cast to this; otherwise as stored."),
    ] = None,
    tp: Annotated[int, typer.Option(min=1, help="Tensor-parallel size that it must load at.")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="Pipeline-parallel size that it must load at.")] = 1,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the way back bit by bit; try --tp x --pp.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that write.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted conversion stopped.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")] = False,
) -> None:
    """Convert a Hugging Face VLM into a teacher folder, which loads at any tp x pp that divides its sizes.

    Example: python checkpoint_tools/hf2mcore.py --hf-path models/InternVL2_5-78B --out checkpoints/teacher
    """
    with quick_imports():
        quiet_imports()
        from checkpoint_tools.conversion import Options, convert_to_mcore

    options = Options(
        dtype=dtype,
        tp=tp,
        pp=pp,
        verify=verify,
        jobs=jobs,
        overwrite=overwrite,
        resume=resume,
    )
    with progress_bar() as progress:
        convert_to_mcore(hf_path, out, options, progress=progress)
    verified = f" (round trip verified; every rank of tp {tp} x pp {pp} finds its tensors)"
    typer.echo(f"{hf_path} -> {out}" + (verified if verify else ""))


if __name__ == "__main__":
    run_command(main)
