"""Keeps libraries from talking over the command's own output."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without the garbage collector, which finds nothing there and takes a quarter of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def quiet_imports() -> None:
    """Silence what megatron-core and transformers say at import and loading; call it before importing them.

    They report optional packages that a CPU does not have, once a rank. What they raise is still raised.
    """
    warnings.filterwarnings("ignore", module=r"megatron|torch\.jit|transformers")
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # no_dist was asked for
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging

    logging.disable_progress_bar()


def quiet_workers() -> None:
    """Silence the process that removes the semaphores which a killed rank shared with its data workers."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
