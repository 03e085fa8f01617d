"""The shape of a family's record: spellings of its keys, and which of them are vision."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyTable:
    """What the engine needs to know of a family beside the decoder's table."""

    old_to_new: tuple[tuple[str, str], ...]
    """Key prefixes of the older disk spelling and of the one in memory, longest first."""
    vision_prefixes: tuple[str, ...]
    """Prefixes, in the newer spelling, of tower and projector."""
    head: str = "lm_head.weight"
