"""What both kinds of `genrecal plan` print, and ask for: times of a layout."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genrecal_mcore import planning
from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeQuestion:
    """What a prediction of times is about."""

    gpu: str | None
    profile: Path | None
    samples: int | None
    teacher_tokens: int
    student_tokens: int
    answer_tokens: int

    def hardware(self) -> planning.Hardware:
        """Return the GPU type; raises `ValueError` when none is named."""
        if self.gpu is None:
            raise ValueError("--gpu is missing; name a type, e.g. a100-80g, or cpu")
        return planning.hardware_named(self.gpu)

    def rates_of(self, config: RunConfig) -> Callable[[Layout], planning.Rates]:
        """Return what gives the rates of a layout: measured ones, or those of the data sheet."""
        hardware = self.hardware()
        if self.profile is None:
            return lambda layout: planning.assumed_rates(hardware, layout)
        profile = planning.load_profile(self.profile)
        planning.check_profile(profile, config)
        return lambda layout: planning.measured_rates(profile, hardware, layout)

    def workload(self, models: planning.CountedModels, *, samples: int) -> planning.Workload:
        """Return the samples, `samples` of them where the question does not say."""
        teacher = models.teacher
        return planning.Workload(
            samples=self.samples or samples,
            teacher_tokens=self.teacher_tokens if teacher else self.student_tokens,
            student_tokens=self.student_tokens,
            answer_tokens=self.answer_tokens,
            teacher_tile=teacher.shapes.vision.tokens_per_tile if teacher else None,
            student_tile=models.student.shapes.vision.tokens_per_tile,
        )


def print_table(console: Console, header: planning.Row, rows: Sequence[planning.Row], *, total: bool) -> None:
    """Print rows under a header; with `total` the last one is set apart."""
    first, *others = header
    table = Table(first)
    for column in others:
        table.add_column(column, justify="right")
    for number, row in enumerate(rows):
        is_total = total and number == len(rows) - 1
        if is_total:
            table.add_section()
        table.add_row(*row, style="bold" if is_total else None)
    console.print(table)


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print sentences, wrapped by the terminal."""
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def print_memory(console: Console, kinds: Sequence[planning.RankKind]) -> None:
    """Print the memory of each kind of rank."""
    print_table(console, planning.memory_header(kinds), planning.memory_rows(kinds), total=True)
    print_lines(console, planning.notes(kinds))


def print_time(
    console: Console,
    timed: planning.TimedLayout,
    prediction: planning.Prediction,
    workload: planning.Workload,
) -> None:
    """Print what a unit costs each kind of rank, and what a step takes."""
    columns = [*planning.mean_unit_costs(timed, workload), planning.step_column(timed)]
    header = (*planning.UNIT_HEADER, *(column.name for column in columns))
    print_table(console, header, planning.unit_rows(columns, timed.rates), total=True)
    print_lines(console, [planning.workload_line(workload)])
    print_lines(console, planning.prediction_lines(prediction, samples=workload.samples))
