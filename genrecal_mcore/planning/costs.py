"""What a unit of work costs, by kind of operation: flops, bytes, calls, samples; and how costs add up.

Pure arithmetic. How long an amount takes is said by `rates`; amounts of a model by `teacher_costs` and
`student_costs`.
"""

from collections.abc import Mapping
from enum import StrEnum


class Op(StrEnum):
    """One kind of operation; the value is what people read."""

    TEACHER_LINEARS = "teacher, decoder linears"
    TEACHER_ATTENTION = "teacher, attention, of the tower too"
    TEACHER_VISION = "teacher, linears of tower and projector"
    STUDENT_LINEARS = "student, decoder linears"
    STUDENT_ATTENTION = "student, attention, of the tower too"
    STUDENT_VISION = "student, linears of tower and projector"
    RECALIBRATOR = "Recalibrator"
    TEACHER_HEAD = "loss through the teacher's head"
    STUDENT_HEAD = "loss through the student's head"
    ELEMENTWISE = "norms, activations, adapters' dropout"
    OPTIMIZER = "AdamW"
    TEACHER_LAYER_CALLS = "teacher, calls of a layer"
    STUDENT_UNIT_CALLS = "student, calls of a unit"
    TEACHER_LOADING = "teacher, samples with images"
    STUDENT_LOADING = "student, samples with images"
    RENDERING = "samples without images"
    TENSOR_PARALLEL = "tensor-parallel collectives"
    COLLECTIVE_CALLS = "starts of collectives"
    PIPELINE = "hidden states to the next stage"
    FEATURES = "features to the students"
    GATHERS = "FSDP, gathered weights"
    REDUCTION = "FSDP, reduced gradients"


UNITS = {
    **dict.fromkeys(Op, "flop"),
    Op.ELEMENTWISE: "byte",
    Op.OPTIMIZER: "byte",
    Op.TEACHER_LAYER_CALLS: "call",
    Op.STUDENT_UNIT_CALLS: "call",
    Op.TEACHER_LOADING: "sample",
    Op.STUDENT_LOADING: "sample",
    Op.RENDERING: "sample",
    Op.TENSOR_PARALLEL: "byte",
    Op.COLLECTIVE_CALLS: "call",
    Op.PIPELINE: "byte",
    Op.FEATURES: "byte",
    Op.GATHERS: "byte",
    Op.REDUCTION: "byte",
}
"""What an amount counts."""

Cost = Mapping[Op, float]
"""Amounts by operation; what is absent costs nothing."""


def total(*costs: Cost) -> dict[Op, float]:
    """Return the sum of costs."""
    summed: dict[Op, float] = {}
    for cost in costs:
        for op, amount in cost.items():
            summed[op] = summed.get(op, 0.0) + amount
    return summed


def times(cost: Cost, factor: float) -> dict[Op, float]:
    """Return a cost many times over."""
    return {op: amount * factor for op, amount in cost.items()}


def flops_of(cost: Cost) -> float:
    """Return the floating-point operations of a cost."""
    return sum(amount for op, amount in cost.items() if UNITS[op] == "flop")
