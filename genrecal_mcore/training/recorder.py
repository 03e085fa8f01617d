"""Turns what every student rank measured in a step into one line of `metrics.jsonl`."""

import resource
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.distributed as dist

from genrecal_mcore.config import RunConfig
from genrecal_mcore.observability import MetricsWriter, MetricValue, ProgressLine
from genrecal_mcore.status import Activity
from genrecal_mcore.training.features import Waits
from genrecal_mcore.training.stages import Stage
from genrecal_mcore.training.student_unit import StepCounts, StudentUnit
from genrecal_mcore.training.unit_sums import GRADIENT_SQUARES, LOSS_TERMS, SUM_NAMES

MEASURED = {
    Activity.COMPUTE: "compute_s",
    Activity.DATA: "data_s",
    Activity.OPTIMIZER: "optimizer_s",
    Activity.CHECKPOINT: "checkpoint_s",
    Activity.TRANSFER: "transfer_s",
}
"""Metrics of what a student rank's time goes into; waiting is measured by the channel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """What one student rank knows of a finished step."""

    step: int
    lr: float
    sums: torch.Tensor
    """This rank's sums `[len(SUM_NAMES)]`, fp64."""
    unit: StudentUnit
    """Any unit of the step: it carries the step's global token counts."""
    grad_norm: torch.Tensor
    seconds: float


class StepRecorder:
    """Sums over the student group; rank 0 of the group writes the line and moves the progress."""

    def __init__(  # noqa: PLR0913 - a line of metrics has this many sources
        self,
        group: dist.ProcessGroup,
        stage: Stage,
        *,
        samples_per_step: int,
        waits: Callable[[], Waits],
        seconds: Callable[[], dict[Activity, float]],
        device: torch.device,
    ) -> None:
        self.group = group
        self.stage = stage
        self.samples_per_step = samples_per_step
        self.waits = waits
        self.seconds = seconds
        self.seconds_before = dict.fromkeys(Activity, 0.0)
        self.device = device
        self.before = Waits()
        self.sinks: list[Callable[[dict[str, MetricValue]], None]] = []
        self.open = ExitStack()

    def write_to(self, config: RunConfig, *, first_step: int) -> None:
        """Let this rank write the run's metrics and show its progress."""
        self.stage_number, self.diagnoses = config.stage, config.train.diagnoses
        path = config.run.dir / "metrics.jsonl"
        writer = self.open.enter_context(MetricsWriter(path, first_step=first_step))
        title = f"{config.method} stage {config.stage}"
        progress = self.open.enter_context(
            ProgressLine(title=title, num_steps=config.train.steps, first_step=first_step)
        )
        self.sinks += [writer.write, progress.update]

    def record(self, record: StepRecord) -> None:
        """Reduce a step over the student group and write it (collective; waits for the device: it is
        logging).
        """
        totals = self._sum_over_group(record)
        if self.sinks:
            metrics = self._metrics(record, totals)
            for sink in self.sinks:
                sink(metrics)

    def close(self) -> None:
        """Close the file and the progress line."""
        self.open.close()

    def _sum_over_group(self, record: StepRecord) -> dict[str, float]:
        waits, seconds = self.waits(), self.seconds()
        local = torch.tensor(
            [
                waits.student_s - self.before.student_s,
                (waits.teacher_s or 0.0) - (self.before.teacher_s or 0.0),
                waits.bytes_received - self.before.bytes_received,
                *(seconds[activity] - self.seconds_before[activity] for activity in MEASURED),
            ],
            dtype=torch.float64,
            device=self.device,
        )
        self.before, self.seconds_before = waits, seconds
        totals = torch.cat([record.sums, local])
        dist.all_reduce(totals, group=self.group)
        names = (*SUM_NAMES, "student_wait_s", "teacher_wait_s", "bytes_received", *MEASURED.values())
        return dict(zip(names, totals.tolist(), strict=True))

    def _metrics(self, record: StepRecord, totals: dict[str, float]) -> dict[str, MetricValue]:
        counts, stage, ranks = record.unit.counts, self.stage, self.group.size()
        terms = self._loss_terms(counts, totals)
        return {
            "step": record.step,
            "stage": self.stage_number,
            "lr": record.lr,
            **terms,
            "answer_tokens_teacher": counts.teacher_answer_tokens if stage.has_teacher else None,
            "answer_tokens_student": counts.student_answer_tokens,
            "samples": (record.step + 1) * self.samples_per_step,
            "step_s": record.seconds,
            **{name: totals[name] / ranks for name in MEASURED.values()},
            "student_wait_s": totals["student_wait_s"] / ranks if stage.has_teacher else None,
            "teacher_wait_s": totals["teacher_wait_s"] / ranks if self.before.teacher_s is not None else None,
            "bytes_received": int(totals["bytes_received"]) if stage.has_teacher else None,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "grad_norm": float(record.grad_norm),
            **self._student_gradients(record.step, totals),
        }

    def _loss_terms(self, counts: StepCounts, totals: dict[str, float]) -> dict[str, float | None]:
        terms: dict[str, float | None] = {
            name: totals[name] / self._count_of(name, counts) if self._has_term(name) else None
            for name in LOSS_TERMS
        }
        for name in ("ce_recal", "kl_recal"):
            boundary, rest = terms[f"{name}_boundary"], terms[f"{name}_rest"]
            terms[name] = None if boundary is None or rest is None else boundary + rest
        return terms

    def _student_gradients(self, step: int, totals: dict[str, float]) -> dict[str, float | None]:
        """Return the norms at the student's question rows, over all units of the step."""
        return {
            name.replace("square", "norm"): totals[name] ** 0.5 if self.diagnoses(step) else None
            for name in GRADIENT_SQUARES
        }

    def _count_of(self, name: str, counts: StepCounts) -> int:
        if name == "loss":
            return 1  # every unit's share of it is divided already
        if name == "ce_student":
            return counts.student_answer_tokens
        if name == "kl_student" and self.stage.comparison is not None:
            return counts.compared(self.stage.comparison.positions)
        return counts.teacher_answer_tokens

    def _has_term(self, name: str) -> bool:
        if name == "loss":
            return True
        if name == "ce_student":
            return self.stage.student_ce
        if name == "kl_student":
            return self.stage.comparison is not None
        return self.stage.teacher_path if name.endswith("_reg") else self.stage.student_path


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has held: allocated on the device, or resident on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
