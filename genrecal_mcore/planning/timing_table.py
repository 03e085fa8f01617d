"""Times of layouts as text: the comparison, what a unit costs where, and what was assumed."""

from collections.abc import Sequence
from itertools import groupby

from genrecal_mcore.planning.costs import UNITS, Cost, Op, flops_of
from genrecal_mcore.planning.hardware import Hardware
from genrecal_mcore.planning.parts import RankKind
from genrecal_mcore.planning.profile_record import Profile
from genrecal_mcore.planning.proposals import Proposal, Proposals
from genrecal_mcore.planning.rates import ASSUMPTIONS, UNCHARGED, Rates
from genrecal_mcore.planning.table import Row, bytes_text
from genrecal_mcore.planning.timing import Prediction, TimedLayout
from genrecal_mcore.planning.unit_costs import ColumnCosts
from genrecal_mcore.planning.workload import SPREAD, Workload
from genrecal_mcore.planning.zero3 import MICRO_BATCH_SIZE, PAPER, Zero3

PROPOSALS_HEADER: Row = (
    "teacher tp x pp x dp",
    "layers a stage",
    "student dp",
    "microbatch x accumulation",
    "computed again",
    "fullest teacher rank",
    "student rank",
    "step",
    "teacher waits",
    "student waits",
    "samples/s",
    "days",
)
UNIT_HEADER: Row = ("what a unit costs a rank, on average",)
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (0.0, ""))


def proposal_row(proposal: Proposal, *, samples: int) -> Row:
    """Return a proposal as a row of the comparison."""
    config, prediction = proposal.config, proposal.prediction
    teacher, train = config.mesh.teacher, config.train
    *stages, student = proposal.kinds
    return (
        f"{teacher.tp} x {teacher.pp} x {teacher.dp}" if teacher else "",
        split_text(proposal.timed),
        str(config.mesh.student.dp),
        f"{train.micro_batch_size} x {train.accumulation_steps}",
        recomputation_text(proposal.timed),
        _fullest(stages) if stages else "",
        bytes_text(student.needed_bytes),
        f"{prediction.step_seconds:.1f} s",
        f"{prediction.teacher_waits:.1%}" if teacher else "",
        f"{prediction.student_waits + prediction.student_apart:.1%}",
        f"{prediction.samples_per_s:.1f}",
        f"{prediction.days(samples):.2f}",
    )


def split_text(timed: TimedLayout) -> str:
    """Return how many of the teacher's layers each pipeline stage holds, e.g. `3+25+2x26`."""
    mesh, teacher = timed.layout.teacher, timed.models.teacher
    if mesh is None or teacher is None:
        return ""
    num_layers = teacher.language.num_layers
    counts = [len(mesh.layers_of_stage(stage, num_layers=num_layers)) for stage in range(mesh.pp)]
    runs = [(count, len(list(stages))) for count, stages in groupby(counts)]
    return "+".join(f"{stages}x{count}" if stages > 1 else str(count) for count, stages in runs)


def recomputation_text(timed: TimedLayout) -> str:
    """Return how many of the student's layers are computed again, e.g. `8 of 32`."""
    if not timed.side.learns:
        return ""
    return f"{timed.side.checkpointed_layers} of {timed.side.shapes.body.num_layers}"


def _fullest(kinds: Sequence[RankKind]) -> str:
    return bytes_text(max(kind.needed_bytes for kind in kinds))


def unit_rows(columns: Sequence[ColumnCosts], rates: Rates) -> list[Row]:
    """Return a row for each operation that any rank has, its amount and its time; and the sum of those that
    come one after the other.
    """
    ops = [op for op in Op if any(op in column.cost for column in columns)]
    rows = [(str(op), *(_amount_and_time(column.cost, op, rates) for column in columns)) for op in ops]
    total = ("one after the other", *(_sum(column.serial, rates) for column in columns))
    return [*(row for row in rows if any(row[1:])), total]


def _amount_and_time(cost: Cost, op: Op, rates: Rates) -> str:
    amount, seconds = cost.get(op, 0.0), rates.seconds({op: cost.get(op, 0.0)})
    if not amount or (seconds == 0.0 and UNITS[op] in ("call", "sample")):
        return ""
    return f"{scaled(amount)}{UNITS[op]}, {milliseconds(seconds)}"


def _sum(cost: Cost, rates: Rates) -> str:
    return f"{scaled(flops_of(cost))}flop, {milliseconds(rates.seconds(cost))}"


def milliseconds(seconds: float) -> str:
    """Return seconds for people, e.g. `1,710 ms` or `0.257 ms`."""
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def scaled(amount: float) -> str:
    """Return an amount with a decimal prefix, e.g. `101 T`."""
    factor, prefix = next((factor, prefix) for factor, prefix in _PREFIXES if amount >= factor)
    return f"{amount / (factor or 1.0):.3g} {prefix}"


def prediction_lines(prediction: Prediction, *, samples: int) -> list[str]:
    """Return a layout's time in sentences."""
    lines = [
        f"A step of {prediction.samples_per_step} samples takes {prediction.step_seconds:.1f} s: "
        f"{prediction.samples_per_s:.1f} samples/s, {prediction.days(samples):.2f} days for "
        f"{samples:,} samples."
    ]
    if prediction.occupancy:
        stages = ", ".join(f"{share:.1%}" for share in prediction.occupancy)
        lines.append(f"Pipeline stages compute {stages} of the time.")
    lines.append(
        f"Student ranks wait {prediction.student_waits:.1%} of the time for features and "
        f"{prediction.student_apart:.1%} for each other."
    )
    return lines


def refusal_lines(proposals: Proposals) -> list[str]:
    """Return what did not fit; raises `ValueError` when nothing did."""
    if not proposals.best:
        raise ValueError(
            f"none of {proposals.num_refused} layouts fits; the one that lacks least:\n"
            f"       {proposals.least_bad}"
        )
    if not proposals.num_refused:
        return []
    return [f"{proposals.num_refused} layouts that promised as much or more do not fit into a GPU."]


def zero3_lines(found: Zero3, *, num_gpus: int, samples: int) -> list[str]:
    """Return what ZeRO-3 costs beside a proposal."""
    hidden, apart = found.days(samples)
    return [
        f"ZeRO-3 over the same {num_gpus} GPUs, by the same rates: {hidden:.2f} days if every gather hides "
        f"behind computation, {apart:.2f} if none does. A unit of {MICRO_BATCH_SIZE} samples is "
        f"{scaled(found.unit_flops)}flop and gathers {scaled(found.unit_gathered_bytes)}byte of weights; "
        "every layer of the student is computed again.",
        PAPER,
    ]


def assumption_lines(hardware: Hardware, rates: Rates) -> list[str]:
    """Return every efficiency that a prediction assumes, and where it comes from."""
    if rates.measured is not None:
        return [f"Rates are those measured: {rates.measured}."]
    lines = [
        f"Assumed on {hardware.name} ({scaled(hardware.peak_flops)}flop/s, memory "
        f"{scaled(hardware.memory_bytes_per_s)}byte/s, node {scaled(hardware.node_bytes_per_s)}byte/s and "
        f"network {scaled(hardware.network_bytes_per_s)}byte/s a device and direction; {hardware.source}):"
    ]
    lines += [f"  {a.share:.0%} of {a.of} for {a.what} ({a.source})" for a in ASSUMPTIONS]
    return [*lines, f"Not charged: {UNCHARGED}."]


def profile_rows(profile: Profile) -> list[Row]:
    """Return what a profile measured, a row an operation: rates, or the time of one."""
    rows: list[Row] = []
    for op, seconds in sorted(profile.seconds_per.items(), key=lambda entry: list(Op).index(entry[0])):
        unit = UNITS[op]
        text = f"{milliseconds(seconds)} a {unit}" if unit in ("call", "sample") else "too fast to be seen"
        if seconds > 0.0 and unit not in ("call", "sample"):
            text = f"{scaled(1 / seconds)}{unit}/s"
        rows.append((str(op), text))
    return rows


def workload_line(workload: Workload) -> str:
    """Return which samples a prediction is about."""
    return (
        f"Samples of {workload.teacher_tokens} tokens for the teacher and {workload.student_tokens} for the "
        f"student on average, {workload.answer_tokens} of them an answer, drawn between {1 - SPREAD:g} and "
        f"{1 + SPREAD:g} times that."
    )
