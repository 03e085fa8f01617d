"""What the processes that this one starts inherit from it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def children_import_silently() -> Iterator[None]:
    """Let processes that start meanwhile import without the warnings that this one has heard.

    A user's own `PYTHONWARNINGS` is put aside for them and holds again afterwards.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        yield
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before
