"""Compares numbers with a tolerance and remembers the worst difference, for the end of the test session."""

from collections import defaultdict

WORST: dict[str, float] = defaultdict(float)
"""Largest relative difference seen under each name."""
TOLERANCE: dict[str, float] = {}


def assert_relatively_close(difference: float, size: float, rtol: float, *, name: str, where: object) -> None:
    """Assert `difference <= rtol * size`; what is compared is called `name` in the session's summary."""
    relative = difference / size if size else float(difference > 0)
    TOLERANCE[name] = rtol
    WORST[name] = max(WORST[name], relative)
    assert relative <= rtol, f"{name}, {where}: relative difference {relative:.1e} is above {rtol:.0e}"
