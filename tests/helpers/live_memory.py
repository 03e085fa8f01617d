"""Measures on a CPU what an allocator has to hold: the bytes of tensors that are alive at once."""

import time
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SETTLING_SECONDS = 0.5


class LiveMemory(TorchDispatchMode):
    """While entered, follows every storage that an operation makes; `known` tensors are not counted.

    Gloo's threads wake whoever waits for a collective before they let go of its tensors, so on a busy machine
    a buffer that nobody uses any more is still seen. A reading above `doubted_above` bytes is therefore taken
    again for a while, and the least is believed.
    """

    def __init__(self, known: Iterable[torch.Tensor] = (), *, doubted_above: float = float("inf")) -> None:
        super().__init__()
        self.doubted_above = doubted_above
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        live_bytes = self.live_bytes
        if live_bytes > max(self.peak_bytes, self.doubted_above):
            live_bytes = self.settled_bytes()
        self.peak_bytes = max(self.peak_bytes, live_bytes)
        return out

    @property
    def live_bytes(self) -> int:
        """Bytes alive at this moment; FSDP empties storages that it keeps."""
        storages = [reference() for reference in self.live.values()]
        return sum(storage.nbytes() for storage in storages if storage is not None)

    def settled_bytes(self) -> int:
        """Return the least that is seen alive within `SETTLING_SECONDS`."""
        least, deadline = self.live_bytes, time.monotonic() + SETTLING_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.01)
            least = min(least, self.live_bytes)
        return least

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known:
            # A storage keeps its Python object for as long as it lives itself.
            self.live[key] = weakref.ref(storage)


def drop_gradients(module: torch.nn.Module) -> None:
    """Let every gradient of a parameter go as soon as it is there, so that activations alone are measured."""

    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop)


def tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
