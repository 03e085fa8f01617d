"""Starts commands with their output in files.

A `python -m` command is forked from a process that has imported this package before: a study has hundreds of
short ones, and most of their time would be the import.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ["genrecal_mcore.cli.preload"]
THREADS, UNBUFFERED = "OMP_NUM_THREADS", "PYTHONUNBUFFERED"


class Commands:
    """Runs commands, and ends those that still run."""

    def __init__(self) -> None:
        # One thread a command: beside another busy process more are many times slower, and their number would
        # show in the last bits of a result. Read by what is started from here on.
        os.environ.setdefault(THREADS, "1")
        # Else a log would have its lines late, and those of stdout behind those of stderr.
        os.environ.setdefault(UNBUFFERED, "1")
        self._fork = multiprocessing.get_context("forkserver")
        self._fork.set_forkserver_preload(PRELOADED)
        self._running: set[BaseProcess | subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a command to its end and return its exit code, negative for a signal."""
        is_forked = tuple(command[:2]) == (sys.executable, "-m")
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the study was stopped")
            process = self._forked(command, log) if is_forked else _started(command, log)
            self._running.add(process)
        if isinstance(process, subprocess.Popen):
            code = process.wait()
        else:
            wait([process.sentinel])
        with self._lock:
            self._running.remove(process)
            if isinstance(process, BaseProcess):
                # Starting a process reads the exit codes of all that have ended: of two threads that read the
                # same code at once, one finds none.
                process.join()
                assert process.exitcode is not None
                code = process.exitcode
        return code

    def end_all(self) -> None:
        """Terminate what runs and start nothing more."""
        with self._lock:
            self._is_closed = True
            for process in self._running:
                with suppress(ProcessLookupError):  # it has just ended
                    process.terminate()

    def _forked(self, command: Sequence[str], log: Path) -> BaseProcess:
        process = self._fork.Process(target=_run_module, args=(command[2], command[3:], log))
        process.start()
        return process


def _started(command: Sequence[str], log: Path) -> subprocess.Popen:
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _run_module(module: str, arguments: Sequence[str], log: Path) -> None:
    """Run a module as `python -m` would, in this process, with stdout and stderr in a file."""
    with log.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
