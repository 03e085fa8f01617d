"""Where a student rank's teacher features come from: the channel from teacher ranks, or what replaces it.

`cached_features` reads them from files, `written_features` adds what another source gives to files.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from genrecal_mcore.data import Microbatch, payload_rows
from genrecal_mcore.parallel import MeshSpec
from genrecal_mcore.transfer import FeatureReceiver, RoutePlan, Unit, owner_of_rows, unit_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Waits:
    """Running totals of one student rank."""

    student_s: float = 0.0
    """Seconds this rank waited for features."""
    teacher_s: float | None = None
    """Seconds the slowest-served teacher replica waited for students; None where there is none."""
    bytes_received: int = 0


class FeatureSource(Protocol):
    """Gives the features of one unit after another; they are begun in the order in which they are taken."""

    @property
    def waits(self) -> Waits:
        """What waiting and transfer have cost this rank so far."""

    def begin(self, unit: Unit, batch: Microbatch) -> None:
        """Ask for the features of a unit, whose samples `batch` holds in the teacher's tokens."""

    def take(self, unit: Unit, batch: Microbatch) -> torch.Tensor:
        """Wait for the oldest unit that was asked for and return `[t, h]`, in `data.payload_rows`' order."""

    def close(self) -> None:
        """End what goes on beside training."""


class ChannelFeatures:
    """Features from teacher ranks of the same job."""

    def __init__(
        self, receiver: FeatureReceiver, plan: RoutePlan, mesh: MeshSpec, *, with_questions: bool
    ) -> None:
        self.receiver = receiver
        self.plan = plan
        self.mesh = mesh
        self.with_questions = with_questions
        self.teacher_waited_s: dict[int, float] = {}
        """Seconds that each teacher replica waited for students so far, as its last header said."""

    @property
    def waits(self) -> Waits:
        """What waiting and transfer have cost this rank so far."""
        return Waits(
            student_s=self.receiver.waited_s,
            teacher_s=max(self.teacher_waited_s.values(), default=0.0),
            bytes_received=self.receiver.bytes_received,
        )

    def begin(self, unit: Unit, batch: Microbatch) -> None:
        """Post the receives for a unit's features."""
        rows = payload_rows(batch.answer_spans, batch.lengths, with_questions=self.with_questions)
        owner = owner_of_rows(
            rows,
            tp=self.mesh.tp,
            padded_length=batch.input_ids.shape[1],
            sequence_parallel=self.mesh.sequence_parallel,
        )
        digest = unit_digest(batch.sample_ids, batch.lengths, batch.answer_spans)
        self.receiver.post(unit, digest, owner, self.plan.replica_of(unit))

    def take(self, unit: Unit, batch: Microbatch) -> torch.Tensor:  # noqa: ARG002 - as every `FeatureSource`
        """Wait for the oldest unit that was posted and return its features `[t, h]`."""
        received = self.receiver.take(unit)
        self.teacher_waited_s[self.plan.replica_of(unit)] = received.teacher_waited_s
        return received.rows

    def close(self) -> None:
        """Do nothing: receives end with their process group."""
