"""Loads the units of one rank ahead of it, in the order in which it asks for them, in processes of its own.

The processes hold processors only. What a unit is made of is sent to them with the request for it, so that
starting one costs the same for any amount of data.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from genrecal_mcore.data.images import opened_image
from genrecal_mcore.data.index import SampleIndex
from genrecal_mcore.data.llava import read_sample
from genrecal_mcore.data.order import BatchShape, StepOrder, samples_of_unit
from genrecal_mcore.data.processor import ImageSize, ModelProcessor
from genrecal_mcore.data.sources import Record
from genrecal_mcore.data.types import BrokenSample, Microbatch, Sample
from genrecal_mcore.status import Unit

START_METHOD = "forkserver"
"""Workers are forked from a clean process that has imported this room once.

A worker forked from the rank itself would keep the rank's sockets open after its death, so that peers would
not notice it, and would inherit CUDA, which cannot be used after a fork, and locks that gloo's and
tokenizers' threads hold. One that is spawned imports for seconds.
"""
UNITS_AHEAD_PER_WORKER = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How a rank wants to see the samples of its units."""

    processor: ModelProcessor
    with_pixels: bool
    """Whether images are decoded."""
    pad_to_multiple_of: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitSamples:
    """The samples of one unit: all that is needed to load it, but what is in the sources."""

    unit: Unit
    records: tuple[Record, ...]
    image_sizes: tuple[tuple[ImageSize, ...], ...]


def unit_samples(unit: Unit, index: SampleIndex, order: StepOrder, batch: BatchShape) -> UnitSamples:
    """Return the samples of a unit."""
    numbers = samples_of_unit(
        order, step=unit.step, microbatch=unit.microbatch, student_rank=unit.student_rank, batch=batch
    )
    return UnitSamples(
        unit=unit,
        records=tuple(map(index.record, numbers)),
        image_sizes=tuple(map(index.image_sizes, numbers)),
    )


def load_unit(planned: UnitSamples, views: Sequence[View]) -> tuple[Microbatch, ...]:
    """Return a unit once for each view, on the CPU.

    Raises `ValueError` naming sample and file when a source or an image is not what it was when the index was
    built.
    """
    samples = list(zip(map(read_sample, planned.records), planned.image_sizes, strict=True))
    return tuple(collate_samples(samples, view) for view in views)


def collate_samples(samples: Sequence[tuple[Sample, tuple[ImageSize, ...]]], view: View) -> Microbatch:
    """Return samples, each with the sizes of its images, as one view sees them; raises `BrokenSample`."""
    rendered = [view.processor.render(sample, sizes) for sample, sizes in samples]
    vision = None
    if view.with_pixels:
        images = [image for sample, sizes in samples for image in _images(sample, sizes)]
        vision = view.processor.pixels(images)
    return view.processor.collate(rendered, vision, pad_to_multiple_of=view.pad_to_multiple_of)


def _images(sample: Sample, sizes: Sequence[ImageSize]) -> Iterator[Image.Image]:
    for stored, size in zip(sample.images, sizes, strict=True):
        try:
            with opened_image(stored) as image:
                if image.size != size:
                    raise BrokenSample(f"the image {stored} has {image.size} pixels; it had {size}")
                yield image.convert("RGB")
        except BrokenSample as error:
            raise BrokenSample(f"sample {sample.id}: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A unit as it comes from a worker."""

    unit: Unit
    batches: tuple[Microbatch, ...] = ()
    error: str | None = None
    """What a worker raises would come with its traceback in front, which hides what is to be done."""

    def pin_memory(self) -> "_Loaded":
        """Return the same in page-locked memory; torch's loader calls this."""
        return replace(self, batches=tuple(batch.pin_memory() for batch in self.batches))


class _Units(Dataset[_Loaded]):
    """Torch's map-style data set, whose index is a `UnitSamples`."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = views

    def __getitem__(self, planned: UnitSamples) -> _Loaded:
        try:
            batches = load_unit(planned, self.views)
        except ValueError as error:
            return _Loaded(unit=planned.unit, error=str(error))
        return _Loaded(unit=planned.unit, batches=batches)


class UnitLoader:
    """Gives the planned units of a rank one after another; a few are ready ahead. Close it when done."""

    def __init__(
        self, planned: Iterable[UnitSamples], views: Sequence[View], *, num_workers: int, pin_memory: bool
    ) -> None:
        self._loaded: Iterator[_Loaded] = iter(
            DataLoader(
                _Units(views),
                batch_size=None,
                sampler=planned,
                num_workers=num_workers,
                multiprocessing_context=START_METHOD if num_workers else None,
                prefetch_factor=UNITS_AHEAD_PER_WORKER if num_workers else None,
                pin_memory=pin_memory,
                worker_init_fn=_end_with_the_rank,
                generator=torch.Generator(),  # nothing draws from it, and nothing from the global one
            )
        )

    def load(self, unit: Unit) -> tuple[Microbatch, ...]:
        """Return the next planned unit, which must be `unit`, once for each view.

        Raises `RuntimeError` when it cannot be loaded, or when the worker that loads it has died.
        """
        try:
            loaded = next(self._loaded)
        except (RuntimeError, EOFError, OSError) as error:
            # The last two when a worker dies while it hands over.
            raise RuntimeError(
                f"the data of {unit} could not be loaded: {error}; a worker process that is gone was mostly "
                "killed for want of memory: look at the host's kernel log and at the size of /dev/shm, or "
                "lower data.num_workers, and pass --resume"
            ) from error
        assert loaded.unit == unit, f"planned {loaded.unit}, asked for {unit}"
        if loaded.error is not None:
            raise RuntimeError(
                f"the data of {unit} could not be loaded: {loaded.error}; it was whole when the run began: "
                "bring it back and pass --resume"
            )
        return loaded.batches

    def close(self) -> None:
        """End the worker processes."""
        self._loaded = iter(())  # torch's iterator ends its workers when it goes

    def __enter__(self) -> "UnitLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def start_worker_server() -> None:
    """Let this process's fork server import what workers need, while the rank goes on with its setup."""
    multiprocessing.get_context(START_METHOD).set_forkserver_preload(["genrecal_mcore.data.loader"])
    multiprocessing.forkserver.ensure_running()


def _end_with_the_rank(_: int) -> None:
    """Let a worker end as soon as its rank has, however it ended.

    Torch's own watch looks at the parent's pid, which is the fork server's; and that lives as long as workers
    do.
    """
    rank = multiprocessing.parent_process()
    assert rank is not None

    def wait_and_leave() -> None:
        rank.join()
        os._exit(1)

    threading.Thread(target=wait_and_leave, daemon=True).start()
