"""What a gate says about a model."""

from dataclasses import dataclass

ROLES = ("teacher", "student")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One gate, one model, one role."""

    gate: str
    model: str
    role: str
    """`teacher`, `student` or `both`."""
    passed: bool
    detail: str
    """What was measured, or what is wrong."""
