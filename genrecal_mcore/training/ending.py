"""How a rank ends: finished, preempted, failed, or told to by a signal; each is logged and recorded.

A job is asked to stop by a file, which reaches ranks in containers and on any host without the launcher.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from genrecal_mcore.status import RankStatus

logger = logging.getLogger(__name__)

EXIT_PREEMPTED = 75
"""BSD's EX_TEMPFAIL: try again later."""


class RunPreempted(Exception):  # noqa: N818 - the run is fine, it was asked to stop
    """The run was asked to stop and has left a checkpoint to go on from."""


class StopRequest:
    """Whether the run is asked to stop: a file that somebody else makes, or None for never."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def is_made(self) -> bool:
        """Look for the file."""
        return self.path is not None and self.path.exists()

    def all_reduce_is_made(self, group: dist.ProcessGroup, device: torch.device) -> bool:
        """Return on all ranks what the group's first rank saw (collective unless no file was named)."""
        if self.path is None:
            return False
        seen = torch.tensor(float(group.rank() == 0 and self.is_made()), device=device)
        dist.all_reduce(seen, group=group)
        return bool(seen)


@contextmanager
def recorded_end(status: RankStatus, stop: StopRequest, *, is_teacher: bool) -> Iterator[None]:
    """Log and record how the rank ends, whatever ends it.

    A teacher rank whose transfer fails after the run was asked to stop is not at fault: the students have
    left. Raises `RunPreempted` for it.
    """
    with _watching_sigterm(status, stop):
        try:
            yield
        except RunPreempted as end:
            status.ends(str(end))
            raise
        except RuntimeError as error:
            if is_teacher and stop.is_made():
                status.ends("stopped: the run was preempted")
                raise RunPreempted(f"the students have left: the run was asked to stop ({error})") from None
            _say_where(status, str(error))
            raise
        except BaseException as error:
            _say_where(status, f"{type(error).__name__}: {error}")
            raise
        status.ends("finished")


def _say_where(status: RankStatus, how: str) -> None:
    logger.error("this rank was at %s when it ended: %s", status.record.describe(), how)
    status.ends(how)


@contextmanager
def _watching_sigterm(status: RankStatus, stop: StopRequest) -> Iterator[None]:
    """End the process on SIGTERM with a last word, also while it is blocked inside a transfer.

    Python's own handlers run only between bytecodes, so a rank that waits for a dead peer would never say
    anything. The interpreter writes the signal's number to a pipe at once; a thread reads it there.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_leave_on_sigterm, args=(reader, status, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _leave_on_sigterm(reader: int, status: RankStatus, stop: StopRequest) -> None:
    while numbers := os.read(reader, 64):
        if signal.SIGTERM not in numbers:
            continue
        if stop.is_made():
            status.ends("stopped: the run was preempted")
            os._exit(EXIT_PREEMPTED)
        _say_where(status, "ended by SIGTERM: another rank failed, or the job was cancelled")
        logging.shutdown()
        os._exit(128 + signal.SIGTERM)
