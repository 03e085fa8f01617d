"""Times a student step of stage 2 on two ranks, and weighs what it holds, for the settings that trade them.

Time is that of this rank's processor, so that what else the machine does counts little. The two ranks share a
memory: what a network would make of fewer gathers is not seen.

Example: python -m benchmarks.memory_knobs --rounds 5
"""

import copy
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer

from benchmarks.results import Benchmark, Target, show
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.config import Family, RunConfig
from genrecal_mcore.layouts.internvl_chat import native_config
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS
from genrecal_mcore.models import Recalibrator
from genrecal_mcore.native import build_model
from genrecal_mcore.training.student_assembly import assemble_student_module, shard_
from genrecal_mcore.training.student_module import StudentModule, StudentUnit
from tests.helpers.live_memory import LiveMemory
from tests.helpers.rank_pool import RankPool
from tests.helpers.student_units import text_unit

STUDENT = "InternVL2.5-1B"
"""Gives the layers their true sizes; there are fewer of them, and a small vocabulary."""
NUM_LAYERS, VOCAB_SIZE, TEACHER_HIDDEN_SIZE = 6, 4096, 2048
NUM_RANKS, NUM_MICROBATCHES, SAMPLES, SAMPLE_TOKENS = 2, 2, 2, 192
DEFAULT, HALF, NONE = "all layers computed again", "half of them", "none of them"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    HALF: {"checkpointed_layers": NUM_LAYERS // 2},
    NONE: {"gradient_checkpointing": False},
    "all, weights kept": {"reshard_after_forward": False},
    "none, weights kept": {"gradient_checkpointing": False, "reshard_after_forward": False},
    "all, each microbatch reduced": {"reduce_every_microbatch": True},
}
"""Fields of `train`, by what they do."""

MIB = 2**20


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each setting is timed.")] = 5,
) -> None:
    """Print the time of a step and the memory it takes for each setting, against the default's."""
    show(measure(rounds=rounds), table_console())


def measure(*, rounds: int) -> Benchmark:
    """Time a step of every setting `rounds` times, in turn, on both ranks; weigh one step of each."""
    pool = RankPool()
    seconds, held = pool.run(times_and_bytes, NUM_RANKS, rounds, timeout_s=3600.0)[0]
    pool.close()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    times = {name: median / medians[DEFAULT] for name, median in medians.items()}
    memory = {name: num_bytes / held[DEFAULT] for name, num_bytes in held.items()}
    return Benchmark(
        title="Memory against time in a student step",
        command=f"python -m benchmarks.memory_knobs --rounds {rounds}",
        about=(
            f"A step of stage 2 on {NUM_RANKS} ranks over gloo: {NUM_LAYERS} layers of {STUDENT}'s sizes "
            f"with LoRA, a Recalibrator of 2 that learns, {NUM_MICROBATCHES} microbatches of "
            f"{SAMPLES * SAMPLE_TOKENS} tokens in bfloat16; medians of {rounds}. Memory is weights, and the "
            "most that is alive beside them at once; AdamW is left out."
        ),
        header=("decoder layers of the student", "CPU seconds a step", "time", "MiB a rank", "memory"),
        rows=[
            (
                name,
                f"{medians[name]:.2f}",
                f"{times[name]:.2f} x",
                f"{held[name] / MIB:.0f}",
                f"{memory[name]:.2f} x",
            )
            for name in SETTINGS
        ],
        targets=[
            Target(name="time, nothing computed again", measured=times[NONE], sense="at most", limit=0.9),
            Target(
                name="memory, half the layers against none computed again",
                measured=memory[HALF] / memory[NONE],
                sense="at most",
                limit=0.9,
            ),
        ],
    )


def times_and_bytes(rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return this rank's CPU seconds of steps and bytes held, by setting (collective over the world)."""
    configs = {name: run_config(train) for name, train in SETTINGS.items()}
    modules = {
        name: shard_(student_module(config), config, dist.group.WORLD) for name, config in configs.items()
    }
    unit = text_unit(configs[DEFAULT], modules[DEFAULT], num_tokens=SAMPLE_TOKENS)
    held = {name: held_bytes(modules[name], unit, config) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(rounds):
        for name, config in configs.items():
            dist.barrier()
            started = time.process_time()
            run_step(modules[name], unit, config)
            seconds[name].append(time.process_time() - started)
            modules[name].zero_grad()
    return seconds, held


def run_step(module: StudentModule, unit: StudentUnit, config: RunConfig) -> None:
    """Sum up the gradients of a step's microbatches, as `training.student_loop` does."""
    for microbatch in range(NUM_MICROBATCHES):
        is_last = microbatch == NUM_MICROBATCHES - 1
        module.set_requires_gradient_sync(is_last or config.train.reduce_every_microbatch)
        module(unit)[0].backward()


def held_bytes(module: StudentModule, unit: StudentUnit, config: RunConfig) -> int:
    """Return the bytes of this rank's weights and of the most that a step has alive beside them."""
    weights = [p.to_local() if hasattr(p, "to_local") else p for p in module.parameters()]
    weights.append(module.teacher_head)
    with LiveMemory([*weights, unit.payload]) as memory:
        run_step(module, unit, config)
    module.zero_grad()
    return sum(weight.nbytes for weight in weights) + memory.peak_bytes


def run_config(train: dict[str, Any]) -> RunConfig:
    """Return a run of stage 2 whose files nobody opens."""
    nowhere = Path("nowhere")
    return RunConfig.model_validate(
        {
            "stage": 2,
            "run": {"dir": nowhere},
            "train": {
                "steps": 1,
                "micro_batch_size": SAMPLES,
                "accumulation_steps": NUM_MICROBATCHES,
                **train,
            },
            "student": {"checkpoint": nowhere},
            "loss": {"memory_budget_mib": 16},
            "data": {"sources": [{"path": nowhere, "images": nowhere}]},
        }
    )


def student_module(config: RunConfig) -> StudentModule:
    """Return the unsharded student side with random weights."""
    torch.manual_seed(0)
    native = copy.deepcopy(dict(native_config(PUBLISHED_MODELS[STUDENT].config, image_token_id=3)))
    native["text_config"] |= {"num_hidden_layers": NUM_LAYERS, "vocab_size": VOCAB_SIZE}
    native["vision_config"] |= {"num_hidden_layers": 1}
    dtype = getattr(torch, config.train.dtype)
    student = build_model(native, Family.INTERNVL).to(dtype).requires_grad_(False)
    recalibrator = Recalibrator(
        student.config.get_text_config(),
        teacher_hidden_size=TEACHER_HIDDEN_SIZE,
        num_layers=config.recalibrator.num_layers,
    )
    head = torch.randn(VOCAB_SIZE, TEACHER_HIDDEN_SIZE, dtype=dtype)
    return assemble_student_module(config, student, recalibrator, head)


if __name__ == "__main__":
    typer.run(main)
