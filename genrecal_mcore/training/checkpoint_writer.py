"""Writes checkpoints beside training: a copy is taken at once, a thread brings it to disk.

What a checkpoint is and when it counts is said in `checkpoint`.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from genrecal_mcore.training.checkpoint import RunState, save_checkpoint


class CheckpointWriter:
    """At most one checkpoint is under way; the next one waits for it, so that memory holds one copy."""

    def __init__(self, run_dir: Path, *, group: dist.ProcessGroup, keep: int) -> None:
        """`group`: the student ranks, over gloo, used by nobody else: its collectives run in the thread."""
        self.run_dir = run_dir
        self.group = group
        self.keep = keep
        self.stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=torch.cuda.is_available(),
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=False,
            )
        )
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.under_way: Future[bool] | None = None

    def save(self, state: RunState, tensors: dict[str, Any]) -> None:
        """Copy `tensors` to host memory and begin to write them (collective over the group)."""
        self.wait()
        copy = self.stager.stage(tensors)
        assert isinstance(copy, dict)
        self.under_way = self.thread.submit(
            save_checkpoint, self.run_dir, state, copy, group=self.group, keep=self.keep
        )

    def wait(self) -> bool:
        """Wait for the checkpoint under way; return whether the last one could be written.

        Raises `RuntimeError` when another rank died meanwhile.
        """
        return self.under_way.result() if self.under_way is not None else True

    def close(self) -> None:
        """End the thread; after a failure nobody waits for the checkpoint that is under way."""
        self.thread.shutdown(wait=False)
        self.stager.close()
