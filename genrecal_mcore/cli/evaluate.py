"""`genrecal evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from genrecal_mcore.cli.quiet import quiet_imports


def evaluate(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder.")],
    data: Annotated[Path, typer.Option(help="Questions in the LLaVA format.")],
    images: Annotated[Path, typer.Option(help="Folder of their images.")],
    out: Annotated[Path, typer.Option(help="Folder for predictions and scores.")],
    batch_size: Annotated[int, typer.Option(help="Questions asked at once.")] = 32,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier evaluation.")] = False,
) -> None:
    """Ask a model questions and score its answers by exact match.

    Example: genrecal evaluate examples/demo/student_hf --data runs/demo/data/heldout.jsonl
    --images runs/demo/data/images --out runs/demo/evaluation
    """
    quiet_imports()
    from rich.console import Console

    from genrecal_mcore.cli.tables import rich_table
    from genrecal_mcore.evaluation import EvaluationSettings, evaluate_model, evaluation_table

    settings = EvaluationSettings(batch_size=batch_size, max_new_tokens=max_new_tokens, overwrite=overwrite)
    scores = evaluate_model(model, data_file=data, images_dir=images, out=out, settings=settings)
    Console().print(rich_table(evaluation_table({model.name: scores}, caption=f"{scores.num} questions, %")))
