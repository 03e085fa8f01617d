"""Figure 10: how accurate a student is along a stage, asked at each checkpoint that its run kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from genrecal_mcore.config import load_run_config
from genrecal_mcore.data import Ranks
from genrecal_mcore.evaluation import BenchmarkFile, EvaluationSettings, evaluate_model
from genrecal_mcore.evaluation.results import write_json
from genrecal_mcore.observability import EvaluationTable
from genrecal_mcore.training import exported_student, stage_of
from genrecal_mcore.training.checkpoint import checkpoints_of, step_of
from genrecal_mcore.training.student_assembly import result_of

COURSE_NAME = "course.json"
ALONE = Ranks()


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointAccuracy:
    """What a benchmark says of the student of one checkpoint."""

    benchmark: str
    stage: int
    step: int
    progress: float
    """Stages done: 1.4 is two fifths into stage 2, 3.0 the end of stage 3."""
    value: float | None
    """What the benchmark reports, 0 to 1; None where its rule could judge nothing."""


def evaluate_checkpoints(
    run_dir: Path,
    files: Sequence[BenchmarkFile],
    *,
    out: Path,
    settings: EvaluationSettings,
    ranks: Ranks = ALONE,
) -> list[CheckpointAccuracy]:
    """Ask the student of every checkpoint that a run kept, the oldest first (collective).

    Writes the results of each into `out/step_N` and all numbers into `out/course.json`; goes on with what is
    there. A stage that leaves the student as it is has it asked once. Raises `ValueError` for a run without a
    checkpoint and for what `evaluate_model` refuses.
    """
    config = load_run_config(run_dir / "config.yaml")
    last = step_of(result_of(run_dir))
    is_fixed = stage_of(config).student_learns == "nothing"
    course: list[CheckpointAccuracy] = []
    for step in map(step_of, checkpoints_of(run_dir)):
        asked = last if is_fixed else step
        student = ranks.broadcast_from_first(partial(exported_student, run_dir, step=asked))
        folder = out / student.parent.name
        scores = evaluate_model(student, files, out=folder, settings=settings, ranks=ranks)
        course += [
            CheckpointAccuracy(
                benchmark=name,
                stage=config.stage,
                step=step,
                progress=config.stage - 1 + step / config.train.steps,
                value=of_benchmark.reported.value,
            )
            for name, of_benchmark in scores.items()
        ]
    if ranks.rank == 0:
        write_json(out / COURSE_NAME, [asdict(at) for at in course])
    return course


def course_folder(run_dir: Path, task: str) -> Path:
    """Return where a study keeps what `evaluate_checkpoints` says of a run on a task."""
    return run_dir / "accuracy" / task


def read_course(folder: Path) -> list[CheckpointAccuracy]:
    """Return what `evaluate_checkpoints` left in a folder; nothing where it was not called."""
    path = folder / COURSE_NAME
    lines = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [CheckpointAccuracy(**line) for line in lines]


def course_table(course: Sequence[CheckpointAccuracy]) -> EvaluationTable:
    """Return what was found as a table in percent."""
    rows = [
        (at.benchmark, str(at.step), "-" if at.value is None else f"{100 * at.value:.1f}") for at in course
    ]
    return EvaluationTable(columns=("benchmark", "step", "%"), rows=tuple(rows), caption="")
