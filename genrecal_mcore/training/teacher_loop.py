"""The teacher loop: a forward pipeline that streams units and never flushes.

Every rank of a replica walks the same list of units. The first stage reads pixels, the last sends features; a
rank in between needs tokens and positions only. The loop runs ahead of the students until the channel's bound
stops it.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from genrecal_mcore.data import Microbatch, payload_rows
from genrecal_mcore.models import Packing, TeacherStage
from genrecal_mcore.status import SENDS_FEATURES, Activity, RankStatus
from genrecal_mcore.training.ahead import begun_ahead
from genrecal_mcore.training.pipeline import RECEIVES_AHEAD, PipelineLink, Travelling
from genrecal_mcore.training.stages import Stage
from genrecal_mcore.transfer import FeatureSender, Unit, owner_of_rows, unit_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherRank:
    """What one teacher rank works with."""

    teacher: TeacherStage
    load: Callable[[Unit], tuple[Microbatch, ...]]
    """Loads the next unit in the teacher's tokens, with pixels on the first stage only."""
    link: PipelineLink
    sender: FeatureSender | None
    """None except on the last stage."""
    stage: Stage
    device: torch.device
    status: RankStatus


@torch.inference_mode()
def run_teacher(rank: TeacherRank, planned: Iterable[Unit]) -> None:
    """Compute and send the features of the planned units, in order."""
    # The first stage receives nothing: ahead of its work it would only hold another unit's pixels.
    depth = 0 if rank.teacher.is_first_stage else RECEIVES_AHEAD
    for unit, (batch, posted) in begun_ahead(planned, partial(begin, rank), depth=depth):
        arrived = None if posted is None else rank.link.take(posted)
        rank.status.at("computes, with its tp ranks", Activity.COMPUTE, unit)
        hidden_states = forward(rank, batch, arrived)
        if rank.sender is None:
            rank.status.at("sends hidden states on", Activity.TRANSFER)
            rank.link.send(unit, hidden_states)
        else:
            rank.status.at(SENDS_FEATURES, Activity.TRANSFER)
            digest = unit_digest(batch.sample_ids, batch.lengths, batch.answer_spans)
            rows, num_rows = own_rows(rank, batch, hidden_states)
            rank.sender.send(unit, rows, digest, num_rows=num_rows)
    rank.status.at("hands over its last units")
    rank.link.drain()
    if rank.sender is not None:
        rank.sender.drain()
        logger.info("sent %d bytes, waited %.2f s for students", rank.sender.bytes_sent, rank.sender.waited_s)
    logger.info("seconds: %s", ", ".join(f"{name} {s:.1f}" for name, s in rank.status.seconds().items()))


def begin(rank: TeacherRank, unit: Unit) -> tuple[Microbatch, Travelling | None]:
    """Load a unit and, except on the first stage, post the receive of its hidden states."""
    rank.status.at("prepares a unit", Activity.DATA, unit)
    (batch,) = rank.load(unit)
    batch = batch.to(rank.device)
    if rank.teacher.is_first_stage:
        return batch, None
    return batch, rank.link.post(unit, local_shape(rank, batch))


def forward(rank: TeacherRank, batch: Microbatch, arrived: torch.Tensor | None) -> torch.Tensor:
    """Return this stage's output `[t/tp or t, 1, h]`; `arrived` is the output of the stage before."""
    if arrived is None:
        arrived = rank.teacher.embed(batch.input_ids, image_features_of(rank, batch))
    return rank.teacher.body(arrived, batch.position_ids, Packing.of(batch.bounds, rank.device))


def image_features_of(rank: TeacherRank, batch: Microbatch) -> torch.Tensor | None:
    """Return features `[n, h]` of the microbatch's images, shared out over tp; None without images."""
    if batch.vision is None:
        return None
    vision = batch.vision
    return rank.teacher.all_gather_image_features(
        vision.pixel_values, vision.image_grid_thw, vision.features_per_item
    )


def local_shape(rank: TeacherRank, batch: Microbatch) -> tuple[int, int, int]:
    """Return the shape `[t/tp or t, 1, h]` that stages of this rank's tp coordinate pass on."""
    config = rank.teacher.body.config
    parts = config.tensor_model_parallel_size if config.sequence_parallel else 1
    return batch.input_ids.shape[1] // parts, 1, config.hidden_size


def own_rows(rank: TeacherRank, batch: Microbatch, hidden_states: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the payload's rows `[t_local, h]` that this tp rank sends, in order, and the payload's t."""
    config = rank.teacher.body.config
    rows = payload_rows(batch.answer_spans, batch.lengths, with_questions=rank.stage.with_questions)
    owner = owner_of_rows(
        rows,
        tp=config.tensor_model_parallel_size,
        padded_length=batch.input_ids.shape[1],
        sequence_parallel=config.sequence_parallel,
    )
    tp_rank = rank.teacher.body.groups.tp.rank()
    mine = owner == tp_rank
    first = tp_rank * hidden_states.shape[0] if config.sequence_parallel else 0
    return hidden_states[rows[mine] - first, 0], len(owner)
