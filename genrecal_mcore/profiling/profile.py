"""Measures on the device at hand what a plan of a run otherwise assumes."""

import datetime
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version

import torch
import torch.distributed as dist

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import ModelProcessor, SampleIndex, index_of_run, load_processors
from genrecal_mcore.planning import CountedModels, Profile, count_models, models_in_folders
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.planning.student_costs import student_side
from genrecal_mcore.profiling.images import linears_alone, student_image_seconds, teacher_image_seconds
from genrecal_mcore.profiling.links import neighbourhood
from genrecal_mcore.profiling.loading import first_images, loading_seconds
from genrecal_mcore.profiling.neighbours import MessageBytes
from genrecal_mcore.profiling.stopwatch import Stopwatch
from genrecal_mcore.profiling.student import rest_seconds, sharded_seconds, student_of, update_seconds
from genrecal_mcore.profiling.student_parts import part_seconds
from genrecal_mcore.profiling.teacher import layer_seconds
from genrecal_mcore.profiling.units import ProfiledUnit
from genrecal_mcore.training.joining import choose_device, start_process_group

PACKAGES = ("torch", "transformers", "megatron-core", "peft")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What is timed, and how."""

    config: RunConfig
    models: CountedModels
    index: SampleIndex
    processors: dict[str, ModelProcessor | None]
    watch: Stopwatch


def profile_run(config: RunConfig, *, rounds: int) -> Profile:
    """Build a run's modules in this process and time them, `rounds` times each; the median counts.

    On a CPU with one thread, as torchrun gives each rank. Raises `ValueError` for inputs that are damaged.
    """
    device = choose_device(config)
    if device.type == "cpu":
        torch.set_num_threads(1)
    processors = load_processors(config)
    bench = Bench(
        config=config,
        models=count_models(config, models_in_folders(config)),
        index=index_of_run(config, processors),
        processors=processors,
        watch=Stopwatch(device=device, rounds=rounds),
    )
    near = neighbourhood(device.type, message_bytes(bench))
    seconds = near.seconds_per | loading_seconds(config, bench.index, processors)
    start_process_group(config, rank=0, world_size=1, device=device)
    seconds |= teacher_part(bench) | student_part(bench)
    dist.destroy_process_group()
    return Profile(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        date=datetime.date.today().isoformat(),
        versions={name: version(name) for name in PACKAGES},
        stage=config.stage,
        method=config.method,
        dtype=config.train.dtype,
        cores=os.cpu_count() if device.type == "cpu" else None,
        crowded_pace=near.crowded_pace,
        seconds_per=seconds,
    )


def message_bytes(bench: Bench) -> MessageBytes:
    """Return the sizes of what a run's ranks send each other, as far as there are such ranks."""
    student, teacher = bench.models.student.shapes, bench.models.teacher
    hidden_states = 0
    if teacher is not None:
        unit = mean_unit(bench, is_teacher=True)
        hidden_states = sum(unit.lengths) * teacher.language.hidden_size * teacher.shapes.element_size
    return MessageBytes(
        hidden_states=hidden_states or student.body.hidden_size * student.element_size,
        layer=student.body.layer_weights * student.element_size,
    )


def mean_unit(bench: Bench, *, is_teacher: bool) -> ProfiledUnit:
    """Return a unit of samples of the data's mean length in one model's tokens."""
    train, role = bench.config.train, "teacher" if is_teacher else "student"
    tokens = round(float(bench.index.counts(f"{role}_tokens").mean()))
    answers = float(bench.index.counts(f"{role}_answer_tokens").mean())
    num_samples = train.micro_batch_size
    if train.micro_batch_tokens is not None:
        num_samples = max(1, train.micro_batch_tokens // tokens)
    return ProfiledUnit(lengths=(tokens,) * num_samples, answer_tokens=max(1, round(answers)))


def teacher_part(bench: Bench) -> dict[Op, float]:
    """Return the seconds of the teacher's operations; none where no teacher takes part."""
    teacher, processor, watch = bench.models.teacher, bench.processors["teacher"], bench.watch
    if teacher is None or processor is None:
        return {}
    unit = mean_unit(bench, is_teacher=True)
    found = layer_seconds(teacher.shapes, teacher.language, unit.lengths, watch)
    batch = first_images(bench.config, bench.index, processor)
    if batch is not None:
        seconds, cost = teacher_image_seconds(bench.config, teacher.shapes, batch, watch)
        attention = found[Op.TEACHER_ATTENTION]
        found |= linears_alone(cost, seconds, op=Op.TEACHER_VISION, attention=attention)
    return found


def student_part(bench: Bench) -> dict[Op, float]:
    """Return the seconds of the student side's operations."""
    config, processor, watch = bench.config, bench.processors["student"], bench.watch
    assert processor is not None
    side, unit = student_side(config, bench.models), mean_unit(bench, is_teacher=False)
    module = student_of(config, device=watch.device)
    found = part_seconds(module, side, unit, watch)
    batch = first_images(config, bench.index, processor)
    if batch is not None:
        seconds, cost = student_image_seconds(module, side, batch, watch)
        attention = found[Op.STUDENT_ATTENTION]
        found |= linears_alone(cost, seconds, op=Op.STUDENT_VISION, attention=attention)
    whole, update = sharded_seconds(module, config, unit, watch)
    found |= rest_seconds(side, unit, unit_seconds=whole, parts=found)
    return found | update_seconds(side, update)


def cpu_name() -> str:
    """Return what this machine calls its processor."""
    return f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores"
