"""Waits for one transfer with a deadline, on gloo and on NCCL alike."""

import time
from datetime import timedelta

import torch
import torch.distributed as dist

POLL_S = 0.0005


class TransferError(RuntimeError):
    """A transfer that did not end: the text says who waited for whom, for what and how long."""


def wait_for(work: dist.Work, *, timeout_s: float, device: torch.device) -> None:
    """Block until `work` is done; raises `RuntimeError` when it failed or `timeout_s` has passed.

    gloo's works take a timeout. NCCL's `wait` returns at once and lets the stream wait, so there the work is
    polled: a peer that fell silent must not hang the stream.
    """
    if device.type == "cpu":
        if not work.wait(timedelta(seconds=timeout_s)):
            raise RuntimeError("the transfer failed")
        return
    deadline = time.monotonic() + timeout_s
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing came for {timeout_s:g} s")
        time.sleep(POLL_S)
    work.wait()
