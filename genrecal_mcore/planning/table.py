"""A memory plan as text: one row a part, one column a kind of rank."""

from collections.abc import Sequence

from genrecal_mcore.planning.parts import Part, RankKind

MIB, GIB = 2**20, 2**30

Row = tuple[str, ...]


def bytes_text(num_bytes: int) -> str:
    """Return bytes for people: in GiB from one on, in MiB below, e.g. `67.8 GiB`."""
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / MIB:.1f} MiB" if num_bytes >= MIB else f"{num_bytes / MIB:.3f} MiB"


def memory_header(kinds: Sequence[RankKind]) -> Row:
    """Return the names of the columns."""
    return ("memory a rank", *(kind.label for kind in kinds))


def memory_rows(kinds: Sequence[RankKind]) -> list[Row]:
    """Return a row for each part that any kind has, and the sum last."""
    rows = [
        (str(part), *(bytes_text(kind.parts[part]) if part in kind.parts else "" for kind in kinds))
        for part in Part
        if any(part in kind.parts for kind in kinds)
    ]
    return [*rows, ("sum", *(bytes_text(kind.total_bytes) for kind in kinds))]


def notes(kinds: Sequence[RankKind]) -> list[str]:
    """Return what a reader of the table must know beside it."""
    said = ["Not counted: the CUDA context, NCCL's buffers, fragments of the allocator."]
    said += [
        f"Before it is sharded, the model takes {bytes_text(kind.loading_bytes)} on each rank: {kind.label}."
        for kind in kinds
        if kind.loading_bytes > kind.total_bytes
    ]
    return said


def fit_text(kinds: Sequence[RankKind], *, available_bytes: int | None) -> str:
    """Return how full the fullest rank is, or that nothing was compared, for a plan that was not refused."""
    if available_bytes is None:
        return "Memory was not compared: there is no GPU here and no --gpu-memory-gib."
    fullest = max(kinds, key=lambda kind: kind.needed_bytes)
    share = 100 * fullest.needed_bytes / available_bytes
    fits = f"Every rank fits into the {bytes_text(available_bytes)} of a GPU"
    return f"{fits}; the fullest is {fullest.label}, with {bytes_text(fullest.needed_bytes)} ({share:.0f} %)."
