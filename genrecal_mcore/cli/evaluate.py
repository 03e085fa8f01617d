"""`genrecal evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrecal_mcore.cli.console import table_console
from genrecal_mcore.cli.quiet import quiet_imports

if TYPE_CHECKING:
    from genrecal_mcore.data import Ranks


def evaluate(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder, or a run folder: its student.")],
    benchmark: Annotated[
        list[str],
        typer.Option(
            help="FILE or NAME=FILE, any number of times: .tsv as VLMEvalKit has them, .json or .jsonl in "
            "the LLaVA format."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for predictions and scores; goes on with what is there.")],
    every_checkpoint: Annotated[
        bool,
        typer.Option("--every-checkpoint", help="Ask the student of each checkpoint in a run folder."),
    ] = False,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images named in files; beside each file if left out.")
    ] = None,
    batch_tokens: Annotated[
        int, typer.Option(help="Most tokens of a batch, answers included: lower it when memory runs out.")
    ] = 16384,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest answer; what suits the benchmark if left out.")
    ] = None,
    num_workers: Annotated[int, typer.Option(help="Threads a rank that decode images ahead.")] = 2,
    max_skipped_share: Annotated[float, typer.Option(help="Largest share of broken rows to accept.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew what is there.")] = False,
) -> None:
    """Ask a model the questions of benchmarks and score its answers; start it on every rank with torchrun.

    Example: genrecal evaluate examples/demo/student_hf --benchmark runs/demo/data/heldout.jsonl
    --images runs/demo/data/images --out runs/demo/evaluation
    """
    quiet_imports()
    from genrecal_mcore import evaluation
    from genrecal_mcore.cli.tables import rich_table
    from genrecal_mcore.observability import set_up_logging

    settings = evaluation.EvaluationSettings(
        batch_tokens=batch_tokens,
        max_new_tokens=max_new_tokens,
        num_workers=num_workers,
        max_skipped_share=max_skipped_share,
        overwrite=overwrite,
    )
    files = [evaluation.BenchmarkFile.parse(text, images_dir=images) for text in benchmark]
    with evaluation.joined_ranks() as ranks:
        set_up_logging(out, rank=ranks.rank, role="evaluation", speaks=ranks.rank == 0)
        if every_checkpoint:
            from genrecal_mcore.study.course import course_table, evaluate_checkpoints

            course = evaluate_checkpoints(model, files, out=out, settings=settings, ranks=ranks)
            table, sentences = course_table(course), []
        else:
            folder = student_folder(model, ranks)
            scores = evaluation.evaluate_model(folder, files, out=out, settings=settings, ranks=ranks)
            table = evaluation.scores_table(list(scores.values()))
            sentences = [note for found in scores.values() for note in evaluation.notes(found)]
    if ranks.rank == 0:
        console = table_console()
        console.print(rich_table(table))
        for sentence in sentences:
            console.print(sentence, soft_wrap=True)
        console.print(f"results: {out}", soft_wrap=True)


def student_folder(model: Path, ranks: "Ranks") -> Path:
    """Return a Hugging Face folder as it is; of a run folder, that of its student, written by rank 0."""
    if not (model / "config.yaml").is_file():
        return model
    from genrecal_mcore.training import exported_student

    return ranks.broadcast_from_first(lambda: exported_student(model))
