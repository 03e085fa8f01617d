"""Estimates the activations of a student rank: its body, its vision tower, the Recalibrator, by stage."""

from dataclasses import replace

from genrecal_mcore.config import RunConfig
from genrecal_mcore.planning.activations import (
    Learns,
    backward_bytes_per_token,
    body_bytes_per_token,
    forward_bytes_per_token,
    frozen_head_bytes_per_token,
    pixel_bytes_per_token,
    projector_bytes_per_token,
    recalibrator_bytes_per_token,
    saved_bytes_per_token,
    vision_bytes_per_token,
)
from genrecal_mcore.planning.shapes import StudentShapes
from genrecal_mcore.training.stages import Stage, stage_of

_LEARNS: dict[str, Learns] = {
    "nothing": "nothing",
    "lora": "lora",
    "body": "all",
    "all_but_vision_encoder": "all",
}
"""What of a decoder layer learns, by what of the student does."""


def student_activations(config: RunConfig, shapes: StudentShapes) -> int:
    """Estimate what the fullest microbatch takes, every one of its tokens of an image.

    Pixels stay until the unit is done. Otherwise the largest counts of what comes one after the other: the
    vision tower, which only runs forward, before anything is kept; the body where it only runs forward;
    backward through the Recalibrator, with all that was kept; backward through the body's layers, one at a
    time computed again where all are: otherwise a layer that kept all has let go of it before.
    """
    stage, size = stage_of(config), shapes.element_size
    backward = backward_bytes_per_token(shapes.body, element_size=size)
    needs = [vision_bytes_per_token(shapes.vision, element_size=size)]
    if stage.student_learns == "nothing":
        needs.append(forward_bytes_per_token(shapes.body, element_size=size))
        kept, again = size * shapes.body.hidden_size, 0  # z
    else:
        kept, again = body_bytes(config, stage, shapes)
    needs.append(kept + max(again, recalibrated_bytes(config, stage, shapes)) + backward)
    return config.most_unit_tokens * (pixel_bytes_per_token(shapes.vision) + max(needs))


def body_bytes(config: RunConfig, stage: Stage, shapes: StudentShapes) -> tuple[int, int]:
    """Return what a student that learns keeps for a token, and what it computes again at one time."""
    size, learns = shapes.element_size, _LEARNS[stage.student_learns]
    checkpointed = config.train.num_checkpointed(shapes.body.num_layers)
    layer = saved_bytes_per_token(shapes.body, element_size=size, learns=learns, lora=config.student.lora)
    kept = body_bytes_per_token(
        shapes.body, element_size=size, saved_by_layer=layer, checkpointed_layers=checkpointed
    )
    if stage.student_learns == "all_but_vision_encoder":
        kept += projector_bytes_per_token(
            shapes.vision, element_size=size, hidden_size=shapes.body.hidden_size
        )
    return kept, layer if checkpointed == shapes.body.num_layers else 0


def recalibrated_bytes(config: RunConfig, stage: Stage, shapes: StudentShapes) -> int:
    """Return what the Recalibrator's paths and their losses take for a token; none without a teacher.

    Their rows, questions of one tokenizer and answers of the other, are taken to be as many as the student's.
    Without a Recalibrator both models' rows are compared: copies of both, and the student's gradient.
    """
    if shapes.teacher_hidden_size is None:
        return 0
    if not stage.has_recalibrator:
        return shapes.element_size * (2 * shapes.body.hidden_size + shapes.teacher_hidden_size)
    student_paths = 2 if config.recalibrator.student_answers else 1  # as many rows again, at most
    if config.train.diagnostics_every_steps is not None:
        student_paths *= 2  # every sequence twice, see `data.recalibrator_layout.with_shares_apart`
    paths = student_paths + int(stage.teacher_path)
    sizes = {"element_size": shapes.element_size, "teacher_hidden_size": shapes.teacher_hidden_size}
    path = recalibrator_bytes_per_token(
        replace(shapes.body, num_layers=config.recalibrator.num_layers),
        learns=stage.recalibrator_learns,
        **sizes,
    )
    inputs = 0
    if config.recalibrator.answer_input != "features":  # embeddings, and the payload that holds them
        inputs = 2 * shapes.element_size * shapes.teacher_hidden_size
    return paths * (path + inputs) + frozen_head_bytes_per_token(**sizes)
