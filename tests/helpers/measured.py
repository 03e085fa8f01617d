"""Lines that the tests' summary shows: what was measured, and what was counted."""

MEASURED: list[str] = []
