"""Runs steps of stage 2 on a pair with real vocabularies: `genrecal train` against a plain transformers loop.

Both have the same two cores: ours a teacher rank and a student rank of one thread each, over gloo; the loop
one process with two threads. Same samples, same weights; the losses of the first step must agree.

Example: python -m benchmarks.stage2_step --rounds 5
"""

import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from benchmarks.plain_loop import PairedSample, PlainResult, PlainRun, run_plain_loop
from benchmarks.ragged import RAGGED, Lengths
from benchmarks.resident_memory import sampled_memory
from benchmarks.results import Benchmark, Target, show
from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.config import load_run_config
from genrecal_mcore.data import batch_shape, index_of_run, load_processors, sample_order
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.training.student_assembly import recalibrator_result
from tests.helpers.tiny_models import make_tiny_model

TEACHER = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 151_674,
}
"""InternVL2.5-78B's vocabulary."""
STUDENT = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 92_553,
}
"""InternVL2.5-8B's vocabulary."""
MOST_POSITIONS = 2048

NUM_SAMPLES, MICROBATCH_SAMPLES, NUM_MICROBATCHES = 64, 4, 2
STEPS, PLAIN_STEPS = 4, 2
"""Of which the first one warms up."""
LORA_R, LR = 16, 1e-4
LOSS_TERMS = ("ce_recal", "kl_recal", "ce_student", "loss")
RTOL_LOSS = 1e-4
LEAST_THROUGHPUT, MOST_MEMORY = 3.0, 0.25
MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnResult:
    """What our ranks did."""

    losses: dict[str, float]
    """Of the first step."""
    seconds: list[float]
    """Of the steps after it."""
    peak_bytes: float
    """Most resident memory of torchrun and both ranks together."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is run; medians are shown.")] = 5,
) -> None:
    """Print seconds a step and resident memory of both ways, and the ratios."""
    show(measure(rounds=rounds), table_console())


def measure(*, rounds: int) -> Benchmark:
    """Run both ways `rounds` times, in turn, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config_path = write_files(root)
        train(config_path, root / "stage1", "stage=1", "init_from=null", "train.steps=1")
        plain_run = plain_run_of(config_path, root)
        own, plain = [], []
        for number in range(rounds):
            own.append(train(config_path, root / f"run_{number}"))
            plain.append(in_fresh_process(plain_run))
    worst = worst_difference(own[0], plain[0][0])
    return report(own, plain, rounds=rounds, worst=worst)


def report(
    own: list[OwnResult], plain: list[tuple[PlainResult, float]], *, rounds: int, worst: float
) -> Benchmark:
    """Return the table."""
    own_s = statistics.median(second for result in own for second in result.seconds)
    plain_s = statistics.median(second for result, _ in plain for second in result.seconds[1:])
    own_bytes = statistics.median(result.peak_bytes for result in own)
    plain_bytes = statistics.median(num_bytes for _, num_bytes in plain)
    samples = MICROBATCH_SAMPLES * NUM_MICROBATCHES
    return Benchmark(
        title="A step of stage 2 against a plain transformers loop",
        command=f"python -m benchmarks.stage2_step --rounds {rounds}",
        about=(
            f"{samples} samples a step, questions of {RAGGED.question[0]} to {RAGGED.question[1]} and "
            f"answers of {RAGGED.answer[0]} to {RAGGED.answer[1]} tokens; vocabularies of "
            f"{TEACHER['vocab_size']} and {STUDENT['vocab_size']}; a teacher of hidden size "
            f"{TEACHER['hidden_size']}, a student of {STUDENT['hidden_size']}, random weights, fp32, LoRA "
            f"and Recalibrator learning. The loop pads microbatches of {MICROBATCH_SAMPLES} samples and "
            "computes every logit, in one process with two threads; ours are a teacher rank and a student "
            "rank of a thread each. Models this small weigh little beside their heads: at published sizes "
            "heads are a smaller share. Memory is resident, interpreter and libraries included, of torchrun "
            f"and both ranks together. Medians of {rounds}; losses of the first step differ by {worst:.1e}."
        ),
        header=("way", "seconds a step", "samples a second", "MiB", "memory"),
        rows=[
            (
                name,
                f"{seconds:.2f}",
                f"{plain_s / seconds:.2f} x",
                f"{num_bytes / MIB:.0f}",
                f"{num_bytes / plain_bytes:.2f} x",
            )
            for name, seconds, num_bytes in (
                ("plain transformers loop", plain_s, plain_bytes),
                ("genrecal train", own_s, own_bytes),
            )
        ],
        targets=[
            Target(
                name="throughput against a plain loop",
                measured=plain_s / own_s,
                sense="at least",
                limit=LEAST_THROUGHPUT,
            ),
            Target(
                name="memory against a plain loop",
                measured=own_bytes / plain_bytes,
                sense="at most",
                limit=MOST_MEMORY,
            ),
        ],
    )


def write_files(
    root: Path,
    *,
    teacher: Mapping[str, int] = TEACHER,
    student: Mapping[str, int] = STUDENT,
    lengths: Lengths = RAGGED,
) -> Path:
    """Write models of these sizes, the data and the configuration; return the latter's path."""
    positions = {"max_position_embeddings": MOST_POSITIONS}
    make_tiny_model(root / "teacher_hf", "internvl_qwen2", seed=1, **positions, **teacher)
    convert_to_mcore(root / "teacher_hf", root / "teacher")
    make_tiny_model(root / "student", "internvl_llama", seed=2, **positions, **student)
    raw: dict[str, Any] = {
        "stage": 2,
        "init_from": str(root / "stage1"),
        "run": {"dir": str(root / "run")},
        "mesh": {"teacher": {}, "student": {"dp": 1}},
        "train": {
            "steps": STEPS,
            "micro_batch_size": MICROBATCH_SAMPLES,
            "accumulation_steps": NUM_MICROBATCHES,
            "dtype": "float32",
            "lr": LR,
            "lr_final": LR,
            "checkpoint_every_steps": STEPS,
        },
        "teacher": {"checkpoint": str(root / "teacher")},
        "student": {
            "checkpoint": str(root / "student"),
            "lora": {"r": LORA_R, "alpha": LORA_R, "dropout": 0.0},
        },
        "data": {
            "sources": [{"path": str(write_samples(root, lengths)), "images": str(root)}],
            "num_workers": 0,
        },
        "loss": {"memory_budget_mib": 256},
        "device": "cpu",
    }
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def write_samples(root: Path, lengths: Lengths) -> Path:
    """Write samples of random text; both tokenizers make about a token of a letter."""
    draw = random.Random(0)
    records = []
    for number in range(NUM_SAMPLES):
        question, answer = (
            "".join(draw.choices("bcdfghjklmnpqrstvwxz", k=draw.randint(*tokens)))
            for tokens in (lengths.question, lengths.answer)
        )
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append({"id": str(number), "conversations": turns})
    path = root / "data.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def train(config_path: Path, run_dir: Path, *overrides: str) -> OwnResult:
    """Run `genrecal train` with a teacher rank and a student rank."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, "-m", "genrecal_mcore.cli.main", "train", str(config_path)]
    log = run_dir.with_suffix(".log")
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen([*command, f"run.dir={run_dir}", *overrides], stdout=out, stderr=out)
        with sampled_memory(process.pid) as peak:
            process.wait()
    if process.returncode:
        end = log.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{end}")
    metrics = read_metrics(run_dir / "metrics.jsonl")
    return OwnResult(
        losses={name: float(metrics[0][name] or 0.0) for name in LOSS_TERMS if name in metrics[0]},
        seconds=[float(line["step_s"] or 0.0) for line in metrics[1:]],
        peak_bytes=peak[0],
    )


def plain_run_of(config_path: Path, root: Path) -> PlainRun:
    """Return what the loop is to do: the first steps of our run."""
    config = load_run_config(config_path)
    processors = load_processors(config)
    teacher, student = processors["teacher"], processors["student"]
    assert teacher is not None and student is not None
    index = index_of_run(config, processors)
    order, batch = sample_order(config, index), batch_shape(config)
    steps = []
    for step in range(PLAIN_STEPS):
        samples = [
            PairedSample(teacher=teacher.render(index[i], ()), student=student.render(index[i], ()))
            for i in order.samples_of_step(step, batch)
        ]
        steps.append(
            [samples[i : i + MICROBATCH_SAMPLES] for i in range(0, len(samples), MICROBATCH_SAMPLES)]
        )
    return PlainRun(
        teacher=root / "teacher_hf",
        student=root / "student",
        recalibrator=recalibrator_result(root / "stage1"),
        lora_r=LORA_R,
        lr=LR,
        num_threads=2,
        steps=steps,
    )


def in_fresh_process(run: PlainRun) -> tuple[PlainResult, float]:
    """Run the plain loop in a process of its own; return its most resident memory too."""
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=spawn) as pool,
        sampled_memory(pool.submit(os.getpid).result()) as peak,
    ):
        result = pool.submit(run_plain_loop, run).result()
    return result, peak[0]


def worst_difference(own: OwnResult, plain: PlainResult) -> float:
    """Return the largest relative difference of a term of the first step; raises when it is too large."""
    worst = max(abs(plain.losses[0][name] - value) / abs(value) for name, value in own.losses.items())
    if worst > RTOL_LOSS:
        raise RuntimeError(f"the losses of the first step differ: {own.losses} and {plain.losses[0]}")
    return worst


if __name__ == "__main__":
    typer.run(main)
