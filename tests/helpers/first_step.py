"""Runs the first step of a training run on a pool rank and compares what it learnt with the reference."""

from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed.tensor import DTensor, distribute_tensor

from genrecal_mcore.config import DataConfig, DataSource, RunConfig
from genrecal_mcore.data import (
    ModelProcessor,
    Sample,
    SampleIndex,
    build_index,
    load_processor,
    replaced_answer_rows,
)
from genrecal_mcore.native import load_native_model
from genrecal_mcore.observability import read_metrics
from genrecal_mcore.parallel import install_cpu_shims, layout_of
from genrecal_mcore.status import unrecorded_status
from genrecal_mcore.training.ending import StopRequest
from genrecal_mcore.training.job import set_up_job
from genrecal_mcore.training.joining import RankSetup
from genrecal_mcore.training.recorder import StepRecord
from genrecal_mcore.training.run import build_student_rank, run_teacher_rank, student_loader
from genrecal_mcore.training.student_loop import accumulate_gradients, gradient_norm
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.covering import Case
from tests.helpers.reference import (
    LoraState,
    Objective,
    ReferenceModels,
    ReferenceSample,
    RenderedConversation,
    add_reference_lora,
    build_reference_recalibrator,
    reference_step,
)

RTOL_LOSS = 1e-5  # worst seen 4.8e-7 over all layouts and all published pairs, 3.0e-6 of a gradient's norm
RTOL_GRADIENT = 1e-4  # of a tensor's norm; worst seen 3.8e-6 over all layouts and all published pairs

LORA_STD = 0.1
SEED = 3
MASKED_RATE = 0.5
"""The default."""


def first_step(raw_config: dict[str, Any]) -> dict[str, Any] | None:
    """Compute losses and gradients of step 0; the first student rank returns them, the others None.

    Keys of the result: `metrics` (a line of metrics.jsonl), `tensors` and `gradients` of all that learns, by
    name, whole, `samples` (numbers of the step's samples in the index).
    """
    install_cpu_shims()
    config = RunConfig.model_validate(raw_config)
    layout = layout_of(config.mesh, world_size=dist.get_world_size())
    config.run.dir.mkdir(parents=True, exist_ok=True)
    rank = dist.get_rank()
    setup = RankSetup(
        rank=rank, device=torch.device("cpu"), status=unrecorded_status(), stop=StopRequest(None)
    )
    job = set_up_job(config, layout, setup, resume=False)
    if job.topology.is_teacher:
        run_teacher_rank(job)
        return None
    student = build_student_rank(job, student_loader(job))
    named = {name: p for name, p in student.module.named_parameters() if p.requires_grad}
    for number, (name, parameter) in enumerate(named.items()):
        if "lora_" in name:
            _draw_(parameter, seed=number)
    tensors = {name: _whole(p.detach()).clone() for name, p in named.items()}
    sums, unit = accumulate_gradients(student, config, 0)
    gradients = {name: _whole(p.grad) for name, p in named.items() if p.grad is not None}
    norm = gradient_norm(student.module)
    student.recorder.record(
        StepRecord(step=0, lr=config.train.lr, sums=sums, unit=unit, grad_norm=norm, seconds=0.0)
    )
    student.recorder.close()
    if job.topology.student_group.rank() != 0:
        return None
    size = job.batch.samples_per_step
    return {
        "metrics": read_metrics(config.run.dir / "metrics.jsonl")[0],
        "tensors": {name: tensor.numpy() for name, tensor in tensors.items()},
        "gradients": {name: tensor.numpy() for name, tensor in gradients.items()},
        "samples": [job.order.index_at(position) for position in range(size)],
    }


def _draw_(parameter: torch.nn.Parameter, *, seed: int) -> None:
    """Fill a sharded parameter in place; adapters start at zero, where half of their gradients vanish."""
    whole = LORA_STD * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    assert isinstance(parameter, DTensor)
    with torch.no_grad():
        local = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.copy_(local)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def raw_config(folders: dict[str, Path], run_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return a run's configuration over tiny checkpoints; `changes` replace whole sections."""
    config: dict[str, Any] = {
        "stage": 1,
        "run": {"dir": run_dir},
        "train": {
            "steps": 1,
            "micro_batch_size": 1,
            "accumulation_steps": 2,
            "dtype": "float32",
            "seed": SEED,
        },
        "transfer": {"timeout_s": 60.0},
        "teacher": {"checkpoint": folders["teacher"]},
        "student": {
            "checkpoint": folders["student"],
            "lora": {"r": 3, "alpha": 6, "dropout": 0.0},
        },
        "data": {
            "sources": [{"path": folders["data"], "images": folders["data"].parent / "images"}],
            "num_workers": 0,
        },
        "device": "cpu",
    }
    return config | changes


def pair_folders(folders: dict[str, Path], pair: tuple[str, str]) -> dict[str, Path]:
    return {"teacher": folders[f"{pair[0]}_teacher"], "student": folders[pair[1]], "data": folders["data"]}


def compare_with_reference(
    results: list[dict[str, Any] | None], case: Case, folders: dict[str, Path]
) -> None:
    """Compare what `first_step` returned.

    `case` has a `pair` of names in `folders`, a `stage`, and what else of `Objective` is not the default.
    """
    (found,) = [result for result in results if result is not None]
    expected = reference(case, folders, found)
    terms = {name: value for name, value in expected.losses.items() if name in found["metrics"]}
    assert terms
    for name, value in terms.items():
        difference = abs(found["metrics"][name] - value)
        assert_relatively_close(difference, abs(value), RTOL_LOSS, name="losses of step 0", where=name)
    compare_gradients(found["gradients"], reference_gradients(expected))


def compare_gradients(found: dict[str, np.ndarray], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        difference = float(np.linalg.norm(found[name] - gradient.numpy()))
        size = float(np.linalg.norm(gradient.numpy()))
        assert_relatively_close(difference, size, RTOL_GRADIENT, name="gradients of step 0", where=name)


def reference_gradients(step: Any) -> dict[str, torch.Tensor]:
    student = {f"student.model.language_model.{name}": g for name, g in step.student_gradients.items()}
    return student | {f"recalibrator.{name}": g for name, g in step.recalibrator_gradients.items()}


def reference(case: Case, folders: dict[str, Path], found: dict[str, Any]) -> Any:
    """Run the naive reference on the same samples with the same tensors."""
    teacher, student = (load_native_model(folders[kind], dtype=torch.float32).eval() for kind in case["pair"])
    for model in (teacher, student):
        model.requires_grad_(False)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in found["tensors"].items()}
    prefix = "student.model.language_model."
    learning = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    state = {name.removeprefix("recalibrator."): t for name, t in tensors.items() if name.startswith("rec")}
    models = ReferenceModels(
        student=student,
        teacher=teacher,
        recalibrator=build_reference_recalibrator(state, student, teacher) if state else None,
        trainable_student=learning_of_reference(student, learning),
    )
    samples = reference_samples(case, folders, found["samples"])
    asked = {field.name: case[field.name] for field in fields(Objective) if field.name in case}
    return reference_step(models, samples, Objective(**asked))


def learning_of_reference(
    student: torch.nn.Module, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.nn.Parameter]:
    """Return what learns of the language body, by name: the adapter that `tensors` are, or its own weights.

    Of the latter there must be exactly the decoder layers and the last norm, as they are in the files.
    """
    if any("lora_" in name for name in tensors):
        return add_reference_lora(student, LoraState(tensors=tensors, r=3, alpha=6.0))
    if not tensors:
        return {}
    named = dict(student.model.language_model.named_parameters())
    learning = {name: p for name, p in named.items() if name.startswith(("layers.", "norm."))}
    for name, parameter in learning.items():
        torch.testing.assert_close(parameter.requires_grad_().detach(), tensors[name], rtol=0.0, atol=0.0)
    return learning


def reference_samples(case: Case, folders: dict[str, Path], numbers: list[int]) -> list[ReferenceSample]:
    teacher, student = (load_processor(folders[kind]) for kind in case["pair"])
    source = DataSource(path=folders["data"], images=folders["data"].parent / "images")
    processors = {"teacher": teacher, "student": student}
    with TemporaryDirectory() as folder:
        index = build_index(Path(folder) / "index", DataConfig(sources=(source,)), processors)
        return [
            ReferenceSample(
                teacher=conversation(teacher, index[i]),
                student=conversation(student, index[i]),
                replaced=replaced_rows(teacher, index, i, case.get("answer_input", "features")),
            )
            for i in numbers
        ]


def replaced_rows(
    teacher: ModelProcessor, index: SampleIndex, number: int, answer_input: str
) -> tuple[bool, ...]:
    """Tell for each answer token of a sample whether its embedding stands for its feature in step 0."""
    rendered = teacher.render(index[number], index.image_sizes(number))
    if answer_input != "masked":
        return (answer_input == "embeddings",) * rendered.num_answer_tokens
    chosen = replaced_answer_rows(
        teacher.collate([rendered]), with_questions=True, rate=MASKED_RATE, seed=SEED, step=0
    )
    return tuple(
        row in chosen.rows.tolist() for start, end in rendered.answer_spans for row in range(start, end)
    )


def conversation(processor: ModelProcessor, sample: Sample) -> RenderedConversation:
    images = [Image.open(image.open()) for image in sample.images]
    rendered = processor.render(sample, [image.size for image in images])
    vision = processor.pixels(images)
    return RenderedConversation(
        input_ids=rendered.input_ids,
        answer_spans=rendered.answer_spans,
        pixel_values=vision.pixel_values if vision else None,
        image_grid_thw=vision.image_grid_thw if vision else None,
        text_ends=[naive_text_ends(processor, rendered.input_ids[a:b]) for a, b in rendered.answer_spans],
    )


def naive_text_ends(processor: ModelProcessor, ids: torch.Tensor) -> list[int]:
    """Return the characters of an answer's text at each of its tokens, one more at the last, its end."""
    ends = [len(processor.decode(ids[:k].tolist())) for k in range(1, len(ids))]
    return [*ends, ends[-1] + 1]
