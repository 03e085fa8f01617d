"""Lets writing fail as on a full disk."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

LARGEST_BYTES = 2000


@contextmanager
def full_disk() -> Iterator[None]:
    """While it lasts, no file of this process may become larger than `LARGEST_BYTES`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
