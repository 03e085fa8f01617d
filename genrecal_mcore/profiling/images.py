"""Times vision towers and projectors over the images of a real batch; they only run forward."""

from dataclasses import replace

import torch

from genrecal_mcore.config import RunConfig, load_teacher_manifest
from genrecal_mcore.data import Microbatch
from genrecal_mcore.models.vision import image_features, load_vision_model
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.planning.costs import Cost, Op
from genrecal_mcore.planning.shapes import TeacherShapes
from genrecal_mcore.planning.student_costs import StudentSide, vision_cost
from genrecal_mcore.planning.teacher_costs import images_cost
from genrecal_mcore.planning.workload import PackedSize, SampleSize
from genrecal_mcore.profiling.stopwatch import Stopwatch
from genrecal_mcore.training.student_module import StudentModule


@torch.inference_mode()
def teacher_image_seconds(
    config: RunConfig, shapes: TeacherShapes, batch: Microbatch, watch: Stopwatch
) -> tuple[float, Cost]:
    """Return the time of the teacher's tower and projector over a batch's images, and what they cost."""
    assert config.teacher is not None
    folder = config.teacher.checkpoint
    manifest = load_teacher_manifest(folder)
    model = load_vision_model(folder / "vision", manifest.family, dtype=getattr(torch, manifest.dtype))
    seconds = _seconds(model.to(watch.device), batch, watch)
    return seconds, images_cost(shapes, MeshSpec(name="teacher"), _images_of(batch))


@torch.no_grad()
def student_image_seconds(
    module: StudentModule, side: StudentSide, batch: Microbatch, watch: Stopwatch
) -> tuple[float, Cost]:
    """Return the same for the student's."""
    forward_only = replace(side, stage=replace(side.stage, student_learns="nothing"))
    return _seconds(module.student.model, batch, watch), vision_cost(forward_only, _images_of(batch))


def linears_alone(cost: Cost, seconds: float, *, op: Op, attention: float) -> dict[Op, float]:
    """Return the seconds of a flop of a tower's linears, its attention's flops taken as fast as a body's.

    `attention`: the seconds of one of those.
    """
    (attention_op,) = {Op.TEACHER_ATTENTION, Op.STUDENT_ATTENTION} & cost.keys()
    return {op: max(0.0, seconds - attention * cost[attention_op]) / cost[op]}


def _seconds(model: torch.nn.Module, batch: Microbatch, watch: Stopwatch) -> float:
    vision = batch.to(watch.device).vision
    assert vision is not None
    return watch.seconds(lambda: image_features(model, vision.pixel_values, vision.image_grid_thw))


def _images_of(batch: Microbatch) -> PackedSize:
    assert batch.vision is not None
    sample = SampleSize(tokens=1, answer_tokens=0, features_per_item=batch.vision.features_per_item)
    return PackedSize.of([sample])
