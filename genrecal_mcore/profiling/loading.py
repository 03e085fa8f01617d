"""Times how long a rank takes to load its samples, with images and without, from the run's own data."""

import time
from collections.abc import Iterator

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import (
    Microbatch,
    ModelProcessor,
    SampleIndex,
    UnitLoader,
    View,
    batch_shape,
    num_microbatches,
    sample_order,
    unit_samples,
)
from genrecal_mcore.planning.costs import Op
from genrecal_mcore.transfer import Unit

MOST_UNITS = 8


def loading_seconds(
    config: RunConfig, index: SampleIndex, processors: dict[str, ModelProcessor | None]
) -> dict[Op, float]:
    """Return the seconds that a sample takes a rank, each seen for the first time."""
    student, teacher = processors["student"], processors["teacher"]
    assert student is not None
    views = {Op.STUDENT_LOADING: View(processor=student, with_pixels=True)}
    if teacher is not None:
        views[Op.TEACHER_LOADING] = View(processor=teacher, with_pixels=True)
        views[Op.RENDERING] = View(processor=teacher, with_pixels=False)
    return {op: _seconds_of_sample(config, index, view) for op, view in views.items()}


def first_images(config: RunConfig, index: SampleIndex, processor: ModelProcessor) -> Microbatch | None:
    """Return the first of the run's units that has an image; None when a few have none."""
    batches = _first_units(config, index, View(processor=processor, with_pixels=True))
    return next((batch for batch in batches if batch.vision is not None), None)


def _seconds_of_sample(config: RunConfig, index: SampleIndex, view: View) -> float:
    started = time.perf_counter()
    num_samples = sum(len(batch.sample_ids) for batch in _first_units(config, index, view))
    return (time.perf_counter() - started) / num_samples


def _first_units(config: RunConfig, index: SampleIndex, view: View) -> Iterator[Microbatch]:
    """Yield the first units of a run, loaded in this process."""
    order, batch = sample_order(config, index), batch_shape(config)
    units = [
        Unit(step=0, microbatch=microbatch, student_rank=rank)
        for microbatch in range(num_microbatches(order, step=0, batch=batch))
        for rank in range(batch.student_dp)
    ][:MOST_UNITS]
    planned = [unit_samples(unit, index, order, batch) for unit in units]
    with UnitLoader(planned, [view], num_workers=0, pin_memory=False) as loader:
        for unit in units:
            yield from loader.load(unit)
