"""Bytes as people read them."""

_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


def size_text(num_bytes: float) -> str:
    """Return bytes in the largest unit that makes them one or more, e.g. `67.8 GiB`."""
    for unit, size in _UNITS:
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} B"
