"""`genrecal demo`: the whole path of the product on a toy problem, phase by phase."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from genrecal_mcore.cli.quiet import quiet_imports

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
STUDENT_RANKS, ALL_RANKS = 2, 6


@dataclass(slots=True)
class DemoState:
    """Where the demo writes and what its phases took."""

    out: Path
    num_heldout: int
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    def phase(self, name: str, run: Callable[[], None]) -> None:
        """Run one phase and keep its time."""
        self.console.rule(name, align="left")
        started = time.perf_counter()
        run()
        self.seconds[name] = time.perf_counter() - started


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("runs/demo"),
    num_train: Annotated[int, typer.Option(help="Training samples to prepare.")] = 4000,
    num_heldout: Annotated[int, typer.Option(help="Held-out questions to ask.")] = 600,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in --out.")] = False,
) -> None:
    """Convert a teacher, train three stages and an SFT twin, evaluate four models, write a report.

    Example: genrecal demo --out runs/demo
    """
    _check_assets()
    _make_room(out, overwrite=overwrite)
    state = DemoState(out=out, num_heldout=num_heldout, console=Console())
    state.phase("prepare data", lambda: _prepare_data(out, num_train=num_train, num_heldout=num_heldout))
    state.phase("convert the teacher", lambda: _convert(out))
    for stage, ranks in ((1, ALL_RANKS), (2, ALL_RANKS), (3, STUDENT_RANKS)):
        state.phase(f"stage {stage}", lambda s=stage, n=ranks: _train(out, f"stage{s}", n))
    for stage in (2, 3):
        state.phase(f"SFT stage {stage}", lambda s=stage: _train(out, f"sft_stage{s}", STUDENT_RANKS))
    state.phase("evaluate and report", lambda: _evaluate_and_report(state))
    _print_seconds(state)


def _check_assets() -> None:
    if not (EXAMPLES / "demo" / "teacher_hf" / "config.json").is_file():
        raise ValueError(
            f"{EXAMPLES / 'demo'} lacks the demo's models; run genrecal demo from a clone of the repository"
        )


def _make_room(out: Path, *, overwrite: bool) -> None:
    marker = out / ".genrecal_demo"
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise ValueError(f"{out} exists; choose another --out or pass --overwrite")
        if not marker.is_file():
            raise ValueError(f"{out} was not made by the demo, so it is not removed; choose another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _prepare_data(out: Path, *, num_train: int, num_heldout: int) -> None:
    script = EXAMPLES / "demo" / "prepare_data.py"
    _run(
        [sys.executable, str(script), "--out", str(out / "data"), "--num-train", str(num_train)]
        + ["--num-heldout", str(num_heldout)]
    )


def _convert(out: Path) -> None:
    script = ROOT / "checkpoint_tools" / "hf2mcore.py"
    source = EXAMPLES / "demo" / "teacher_hf"
    _run([sys.executable, str(script), "--hf-path", str(source), "--out", str(out / "teacher"), "--verify"])


def _train(out: Path, name: str, num_ranks: int) -> None:
    """Train one run under torchrun, with the paths of its configuration moved into the demo's folder."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num_ranks}",
    ]
    config = EXAMPLES / "configs" / f"demo_{name}.yaml"
    _run([*launcher, "-m", "genrecal_mcore.cli.main", "train", str(config), *_overrides(out, name)])


def _overrides(out: Path, name: str) -> list[str]:
    source = f"[{{path: {out}/data/train.jsonl, images: {out}/data/images}}]"
    overrides = [
        f"run.dir={out / name}",
        f"student.checkpoint={EXAMPLES / 'demo' / 'student_hf'}",
        f"data.sources={source}",
    ]
    if name in ("stage1", "stage2"):
        overrides.append(f"teacher.checkpoint={out / 'teacher'}")
    parents = {"stage2": "stage1", "stage3": "stage2", "sft_stage3": "sft_stage2"}
    if name in parents:
        overrides.append(f"init_from={out / parents[name]}")
    return overrides


def _run(command: list[str]) -> None:
    """Run a subprocess whose output is shown; raises `RuntimeError` naming it when it fails."""
    result = subprocess.run(command, check=False)
    if result.returncode:
        raise RuntimeError(
            f"the demo's command failed with exit code {result.returncode}: {' '.join(command)}"
        )


def _evaluate_and_report(state: DemoState) -> None:
    quiet_imports()
    from genrecal_mcore.cli.tables import rich_table
    from genrecal_mcore.evaluation import BenchmarkFile, EvaluationSettings, evaluate_model, models_table
    from genrecal_mcore.observability import write_report
    from genrecal_mcore.training import export_student

    out = state.out
    for method, run in (("genrecal", "stage3"), ("sft", "sft_stage3")):
        export_student(out / run, out / "export" / method)
    models = {
        "teacher": EXAMPLES / "demo" / "teacher_hf",
        "student, untouched": EXAMPLES / "demo" / "student_hf",
        "student, SFT": out / "export" / "sft" / "student",
        "student, GenRecal": out / "export" / "genrecal" / "student",
    }
    heldout = BenchmarkFile.parse(str(out / "data" / "heldout.jsonl"), images_dir=out / "data" / "images")
    scores = {}
    for number, (name, folder) in enumerate(models.items()):
        of_model = evaluate_model(
            folder,
            [heldout],
            out=out / "evaluation" / f"{number}_{folder.parent.name}_{folder.name}",
            settings=EvaluationSettings(max_new_tokens=16),
        )
        scores[name] = of_model[heldout.name]
    num_questions = scores["teacher"].all.num
    table = models_table(scores, caption=f"exact match in % on {num_questions} held-out questions, one seed")
    runs = {name: out / name for name in ("stage1", "stage2", "stage3", "sft_stage2", "sft_stage3")}
    report = write_report(out, runs=runs, table=table, title="GenRecal demo")
    state.console.print(rich_table(table))
    state.console.print(f"student: {models['student, GenRecal']}\nreport:  {report}")


def _print_seconds(state: DemoState) -> None:
    table = Table(title="seconds", title_justify="left")
    table.add_column("phase")
    table.add_column("s", justify="right")
    for name, seconds in state.seconds.items():
        table.add_row(name, f"{seconds:.0f}")
    table.add_row("all", f"{sum(state.seconds.values()):.0f}")
    state.console.print(table)
