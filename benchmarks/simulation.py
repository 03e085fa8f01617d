"""Predicts the step time of real runs on this machine, from a profile and the simulation, and runs them.

Example: python -m benchmarks.simulation --rounds 3
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.results import Benchmark, Target, show
from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.config import RunConfig, load_run_config
from genrecal_mcore.data import (
    ModelProcessor,
    Sample,
    batch_shape,
    index_of_run,
    load_processors,
    sample_order,
)
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.parallel import layout_of
from genrecal_mcore.planning import (
    Profile,
    count_models,
    hardware_named,
    load_profile,
    measured_rates,
    models_in_folders,
    timed_layout,
)
from genrecal_mcore.planning.checks import ranks_needed
from genrecal_mcore.planning.simulation import simulate
from genrecal_mcore.planning.timing import simulated_run
from genrecal_mcore.planning.workload import PairedSize, SampleSize
from tests.helpers.tiny_data import make_tiny_dataset
from tests.helpers.tiny_models import make_tiny_model

TEACHER = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
STUDENT = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
NUM_SAMPLES, NUM_STEPS, WARM_UP_STEPS = 96, 10, 2
MOST_ERROR = 0.20


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A layout that is run, and whether the one constant is fitted to it."""

    name: str
    overrides: tuple[str, ...]
    is_fitted: bool = False


TRIALS = (
    Trial(name="teacher 1 x 1 x 1, student 1", overrides=(), is_fitted=True),
    Trial(name="teacher 2 x 1 x 1, student 1", overrides=("mesh.teacher.tp=2",), is_fitted=True),
    Trial(name="teacher 1 x 1 x 1, student 2", overrides=("mesh.student.dp=2",), is_fitted=True),
    Trial(name="teacher 1 x 2 x 1, student 1", overrides=("mesh.teacher.pp=2",)),
    Trial(name="teacher 1 x 1 x 2, student 1", overrides=("mesh.teacher.dp=2",)),
    Trial(
        name="teacher 2 x 2 x 1, student 2",
        overrides=("mesh.teacher.tp=2", "mesh.teacher.pp=2", "mesh.student.dp=2"),
    ),
)
"""Layouts as tp x pp x dp: up to six ranks on however many cores there are."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that profile and runs are made.")] = 3,
) -> None:
    """Print predicted and measured seconds of a step for six layouts."""
    show(measure(rounds=rounds), table_console())


def measure(*, rounds: int) -> Benchmark:
    """Profile once and train every layout once a round, in turn; then predict them all."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config_path = write_files(root)
        train(config_path, root / "stage1", "stage=1", "init_from=null", "train.steps=1")
        measured: dict[str, list[float]] = {trial.name: [] for trial in TRIALS}
        profiles = []
        for number in range(rounds):
            profiles.append(profiled(config_path, root / f"profile_{number}.json"))
            for trial in TRIALS:
                run_dir = root / f"{trial.name} {number}"
                measured[trial.name] += train(config_path, run_dir, *trial.overrides)
        profile = median_profile(profiles)
        predicted = {t.name: predicted_seconds(config_path, profile, t.overrides) for t in TRIALS}
    return report(measured, predicted, rounds=rounds)


def report(measured: dict[str, list[float]], predicted: dict[str, float], *, rounds: int) -> Benchmark:
    """Fit one constant to three layouts and compare all of them."""
    medians = {name: statistics.median(seconds) for name, seconds in measured.items()}
    logs = [log(medians[trial.name] / predicted[trial.name]) for trial in TRIALS if trial.is_fitted]
    factor = exp(statistics.fmean(logs))
    errors = {t.name: factor * predicted[t.name] / medians[t.name] - 1 for t in TRIALS}
    worst = {
        fitted: max(abs(errors[t.name]) for t in TRIALS if t.is_fitted is fitted) for fitted in (True, False)
    }
    return Benchmark(
        title="Predicted and measured steps",
        command=f"python -m benchmarks.simulation --rounds {rounds}",
        about=(
            "genrecal train, stage 2, over gloo on this machine: a teacher of 24 M parameters (tp x pp x dp) "
            f"and a student of 5 M. Medians of {rounds} x {NUM_STEPS - WARM_UP_STEPS} steps. Predictions "
            f"come from genrecal profile, made as often and in turn, and one constant, {factor:.2f}, fitted "
            "to the first three layouts."
        ),
        header=("layout", "fitted", "measured", "profile alone", "with the constant", "error"),
        rows=[
            (
                trial.name,
                "yes" if trial.is_fitted else "no",
                f"{medians[trial.name]:.3f} s",
                f"{predicted[trial.name]:.3f} s",
                f"{factor * predicted[trial.name]:.3f} s",
                f"{errors[trial.name]:+.1%}",
            )
            for trial in TRIALS
        ],
        targets=[
            target("worst error, fitted layouts", worst[True]),
            target("worst error, other layouts", worst[False]),
        ],
    )


def target(name: str, measured: float) -> Target:
    """Return the target of an error, in percent."""
    return Target(name=name, measured=100 * measured, sense="at most", limit=100 * MOST_ERROR, unit="%")


def write_files(root: Path) -> Path:
    """Write both models, the data and the configuration of the runs; return the latter's path."""
    teacher = make_tiny_model(root / "teacher_hf", "internvl_qwen2", seed=1, **TEACHER)
    convert_to_mcore(teacher, root / "teacher")
    student = make_tiny_model(root / "student", "qwen2_vl", seed=2, **STUDENT)
    data = make_tiny_dataset(root / "data", NUM_SAMPLES, seed=5)
    raw: dict[str, Any] = {
        "stage": 2,
        "init_from": str(root / "stage1"),
        "run": {"dir": str(root / "run")},
        "mesh": {"teacher": {}, "student": {"dp": 1}},
        "train": {
            "steps": NUM_STEPS,
            "micro_batch_size": 4,
            "accumulation_steps": 2,
            "dtype": "float32",
            "checkpoint_every_steps": NUM_STEPS,
        },
        "teacher": {"checkpoint": str(root / "teacher")},
        "student": {"checkpoint": str(student), "lora": {"r": 16, "alpha": 16}},
        "data": {"sources": [{"path": str(data), "images": str(data.parent / "images")}], "num_workers": 0},
        "device": "cpu",
    }
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def train(config_path: Path, run_dir: Path, *overrides: str) -> list[float]:
    """Run `genrecal train` under torchrun; return the seconds of its steps after the first few."""
    keys = [f"run.dir={run_dir}", *overrides]
    num_ranks = ranks_needed(load_run_config(config_path, keys))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    genrecal([*launcher, "-m", "genrecal_mcore.cli.main", "train", str(config_path), *keys])
    return [float(line["step_s"] or 0.0) for line in read_metrics(run_dir / "metrics.jsonl")][WARM_UP_STEPS:]


def profiled(config_path: Path, out: Path) -> Profile:
    """Run `genrecal profile`."""
    genrecal(["-m", "genrecal_mcore.cli.main", "profile", str(config_path), "--out", str(out)])
    return load_profile(out)


def genrecal(arguments: Sequence[str]) -> None:
    """Run a command of this interpreter; raises `RuntimeError` with the end of its output when it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def median_profile(profiles: Sequence[Profile]) -> Profile:
    """Return the median of every number of several profiles."""
    first = profiles[0]
    return first.model_copy(
        update={
            "crowded_pace": statistics.median(profile.crowded_pace for profile in profiles),
            "seconds_per": {
                op: statistics.median(profile.seconds_per[op] for profile in profiles)
                for op in first.seconds_per
            },
        }
    )


def predicted_seconds(config_path: Path, profile: Profile, overrides: Sequence[str]) -> float:
    """Return the median of a layout's simulated steps, those that are measured of the real run."""
    config = load_run_config(config_path, overrides)
    layout = layout_of(config.mesh, world_size=ranks_needed(config))
    rates = measured_rates(profile, hardware_named("cpu"), layout)
    models = count_models(config, models_in_folders(config))
    timed = timed_layout(config, layout, models, rates)
    sizes, order = sample_sizes(config)
    batch = batch_shape(config)
    run = simulated_run(
        timed, lambda step: [sizes[i] for i in order.samples_of_step(step, batch)], num_steps=NUM_STEPS
    )
    ends = [end.now for end in simulate(run).ends]
    return statistics.median(
        after - before for before, after in zip(ends[WARM_UP_STEPS - 1 :], ends[WARM_UP_STEPS:], strict=False)
    )


def sample_sizes(config: RunConfig) -> tuple[list[PairedSize], Any]:
    """Return the true sizes of a run's samples, and its order."""
    processors = load_processors(config)
    index = index_of_run(config, processors)
    teacher, student = processors["teacher"], processors["student"]
    assert teacher is not None and student is not None
    sizes = [
        PairedSize(
            teacher=sample_size(teacher, index[number], index.image_sizes(number)),
            student=sample_size(student, index[number], index.image_sizes(number)),
        )
        for number in range(len(index))
    ]
    return sizes, sample_order(config, index)


def sample_size(processor: ModelProcessor, sample: Sample, image_sizes: Any) -> SampleSize:
    """Return a sample's size in one model's tokens."""
    rendered = processor.render(sample, image_sizes)
    return SampleSize(
        tokens=len(rendered.input_ids),
        answer_tokens=rendered.num_answer_tokens,
        num_answers=len(rendered.answer_spans),
        features_per_item=rendered.features_per_item,
    )


if __name__ == "__main__":
    typer.run(main)
