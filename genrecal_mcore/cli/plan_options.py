"""The options of `genrecal plan`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

MEAN_TEACHER_TOKENS, MEAN_ANSWER_TOKENS, USUAL_STAGE, NUM_SHOWN = 2500, 256, 2, 5
"""Where nothing is said."""

Config = Annotated[Path | None, typer.Argument(help="YAML file of a run to check.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Keys to change, as a.b=c.")]
Ranks = Annotated[
    int | None, typer.Option(min=1, help="Ranks of the job; as many as the meshes need if left out.")
]
TeacherRanksPerNode = Annotated[
    int | None, typer.Option(min=1, help="Refuses a tensor-parallel group that would lie on two nodes.")
]
GpuMemoryGib = Annotated[
    float | None, typer.Option(help="Memory of a GPU; that of --gpu or of this machine's if left out.")
]
Teacher = Annotated[
    str | None, typer.Option(help="Published model, or a folder. Proposes layouts, with no CONFIG.")
]
Student = Annotated[str | None, typer.Option(help="The same.")]
Gpus = Annotated[int | None, typer.Option(min=1, help="GPUs to propose layouts for.")]
Gpu = Annotated[str | None, typer.Option(help="Their type, e.g. a100-80g; predicts times.")]
Stage = Annotated[int | None, typer.Option(min=1, max=3, help="Stage to propose layouts for; 2 if left out.")]
Samples = Annotated[
    float | None, typer.Option(help="Samples of the data set; the run's, or the paper's if left out.")
]
TeacherTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Mean tokens of a sample, image tokens included; 2500 if left out."),
]
StudentTokens = Annotated[
    int | None, typer.Option(min=1, help="The same for the student; as many if left out.")
]
AnswerTokens = Annotated[int | None, typer.Option(min=1, help="Mean tokens of its answer; 256 if left out.")]
SamplesPerStep = Annotated[
    int | None, typer.Option(min=1, help="About as many a step; the paper's if left out.")
]
ProfileFile = Annotated[
    Path | None,
    typer.Option("--profile", help="What genrecal profile wrote, instead of assumed efficiencies."),
]
Top = Annotated[int | None, typer.Option(min=1, help="Layouts to show; 5 if left out.")]


ABOUT_A_RUN = ("ranks", "teacher_ranks_per_node", "gpu_memory_gib")
ABOUT_LAYOUTS = ("teacher", "student", "gpus", "stage", "samples_per_step", "top")
ABOUT_TIME = ("samples", "profile", "teacher_tokens", "student_tokens", "answer_tokens")


def refuse_idle_options(options: Mapping[str, object], *, has_run: bool) -> None:
    """Raise `ValueError` naming the options that were given and would do nothing."""
    if has_run:
        _refuse_given(ABOUT_LAYOUTS, options, "only layouts are proposed so; leave CONFIG out")
    else:
        _refuse_given(ABOUT_A_RUN, options, "only a run is checked so; name its CONFIG")
    if options["gpu"] is None:
        _refuse_given(ABOUT_TIME, options, "only times are predicted so; name a --gpu")


def _refuse_given(names: Sequence[str], options: Mapping[str, object], because: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if options[name] is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: {because}")
