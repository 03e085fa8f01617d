"""Runs functions on several gloo ranks of one machine, paying for process start and imports once a session.

Workers are forked from multiprocessing's fork server, which imported the heavy libraries once and never ran a
test: a worker is there in milliseconds, and one that a test broke or killed is forked again.
"""

import atexit
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

import torch
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

PRELOADED_MODULES = [
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "transformers.models.auto.modeling_auto",
    "transformers.models.internvl.modeling_internvl",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "peft",
    "megatron.core.dist_checkpointing",
    "megatron.core.models.gpt",
    "genrecal_mcore.training",
]

TEARDOWN_GRACE_S = 5.0
"""After a rank failed, how long the others may take to report before they are killed."""


class RankFailedError(AssertionError):
    """A rank raised, died or hung; the text holds the ranks' tracebacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOutcome:
    """What became of one rank: a result, an error text, a death (`exit_code`), or none of them in time."""

    result: Any = None
    error: str | None = None
    exit_code: int | None = None
    is_finished: bool = True

    @property
    def is_ok(self) -> bool:
        """Tell whether the function returned."""
        return self.is_finished and self.error is None and self.exit_code is None

    def describe(self) -> str:
        """Return the traceback, or one sentence about the death or the hang."""
        if not self.is_finished:
            return "did not finish within the time limit and was killed"
        if self.exit_code is not None:
            return f"died with exit code {self.exit_code}"
        return self.error or "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    rank: int
    world_size: int
    store_port: int
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    process: ForkServerProcess
    connection: Connection


class RankPool:
    """Workers that become rank 0..world_size-1 of a fresh gloo group for every call.

    Between calls every worker is idle and holds no process group; a call that fails leaves no worker behind.
    """

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED_MODULES)
        self._workers: list[_Worker] = []
        atexit.register(self.close)

    def run(
        self, function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120.0
    ) -> list[Any]:
        """Call `function(*args)` on every rank and return the results by rank.

        The function must be importable by name, and its result picklable. Raises `RankFailedError` with the
        tracebacks, the first failure first, after a short grace for the other ranks.
        """
        outcomes = self._collect(function, world_size, args, timeout_s=timeout_s, grace_s=TEARDOWN_GRACE_S)
        reports = [
            f"rank {rank}: {outcome.describe()}" for rank, outcome in outcomes.items() if not outcome.is_ok
        ]
        if reports:
            raise RankFailedError("\n".join(reports))
        return [outcomes[rank].result for rank in range(world_size)]

    def outcomes(
        self,
        function: Callable[..., Any],
        world_size: int,
        *args: Any,
        timeout_s: float = 120.0,
        grace_s: float | None = None,
    ) -> list[RankOutcome]:
        """Call `function(*args)` on every rank and return what became of each, failures included.

        With `grace_s` the others have that long after the first failure, as torchrun's ranks have.
        """
        outcomes = self._collect(function, world_size, args, timeout_s=timeout_s, grace_s=grace_s)
        return [outcomes[rank] for rank in range(world_size)]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _collect(
        self,
        function: Callable[..., Any],
        world_size: int,
        args: tuple[Any, ...],
        *,
        timeout_s: float,
        grace_s: float | None,
    ) -> dict[int, RankOutcome]:
        self._ensure_workers(world_size)
        workers = self._workers[:world_size]
        # The parent serves the store, as torchrun's agent does: no rank's death takes it away.
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank, worker in enumerate(workers):
            job = _Job(
                function=function,
                args=args,
                rank=rank,
                world_size=world_size,
                store_port=store.port,
                timeout_s=timeout_s,
            )
            worker.connection.send(job)
        outcomes = _wait_for_outcomes(workers, deadline=time.monotonic() + timeout_s, grace_s=grace_s)
        if not all(outcome.is_ok for outcome in outcomes.values()):
            self.close()
        return outcomes

    def _ensure_workers(self, num_workers: int) -> None:
        while len(self._workers) < num_workers:
            ours, theirs = self._context.Pipe()
            # Not daemonic: dist_checkpointing starts processes of its own.
            process = self._context.Process(target=_work, args=(theirs,), daemon=False)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process=process, connection=ours))


def _wait_for_outcomes(
    workers: list[_Worker], *, deadline: float, grace_s: float | None
) -> dict[int, RankOutcome]:
    """Gather one outcome a rank, in order of arrival; with `grace_s` a failure moves the deadline near."""
    outcomes: dict[int, RankOutcome] = {}
    pending = {worker.connection: rank for rank, worker in enumerate(workers)}
    while pending and (remaining_s := deadline - time.monotonic()) > 0:
        for connection in wait(list(pending), timeout=remaining_s):
            rank = pending.pop(connection)
            outcomes[rank] = _receive_outcome(workers[rank])
            if grace_s is not None and not outcomes[rank].is_ok:
                deadline = min(deadline, time.monotonic() + grace_s)
    return outcomes | {rank: RankOutcome(is_finished=False) for rank in pending.values()}


def _receive_outcome(worker: _Worker) -> RankOutcome:
    try:
        outcome = worker.connection.recv()
    except EOFError:
        worker.process.join()
        return RankOutcome(exit_code=worker.process.exitcode)
    assert isinstance(outcome, RankOutcome)
    return outcome


def _work(connection: Connection) -> None:
    """Serve jobs until one fails or the parent closes the pipe.

    A failed rank exits, as a real one does: its peers then fail at once instead of waiting for it.
    """
    torch.set_num_threads(1)
    is_ok = True
    while is_ok:
        try:
            job = connection.recv()
        except EOFError:
            return
        outcome = _do(job)
        connection.send(outcome)
        is_ok = outcome.is_ok
    os._exit(1)


def _do(job: _Job) -> RankOutcome:
    os.environ.update(RANK=str(job.rank), LOCAL_RANK=str(job.rank), WORLD_SIZE=str(job.world_size))
    timeout = timedelta(seconds=job.timeout_s)
    try:
        store = torch.distributed.TCPStore("127.0.0.1", job.store_port, is_master=False, timeout=timeout)
        torch.distributed.init_process_group(
            "gloo", store=store, rank=job.rank, world_size=job.world_size, timeout=timeout
        )
        # DTensor remembers meshes of earlier calls, whose groups are gone, and takes them for equal ones.
        _clear_sharding_prop_cache()
        result = job.function(*job.args)
        # A rank that leaves first would break a neighbour's last collective.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        return RankOutcome(result=result)
    except BaseException:
        # Nothing is swallowed: the parent raises it again, with its rank.
        return RankOutcome(error=traceback.format_exc())
