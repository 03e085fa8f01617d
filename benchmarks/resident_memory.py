"""Watches the resident memory of other processes."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLING_S = 0.05


@contextmanager
def sampled_memory(pid: int) -> Iterator[list[float]]:
    """Give a list whose only entry is the largest resident memory of a process tree so far, in bytes."""
    peak, done = [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLING_S):
            peak[0] = max(peak[0], resident_bytes(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def resident_bytes(pid: int) -> float:
    """Return the resident memory of a process and its descendants; what they share is counted in each."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # it has ended
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)
