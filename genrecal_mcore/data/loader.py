"""Loads units of work in the tokens of one model."""

from functools import lru_cache
from pathlib import Path

from PIL import Image

from genrecal_mcore.data.index import SampleIndex
from genrecal_mcore.data.order import BatchShape, SampleOrder, samples_of_unit
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.types import Microbatch, RenderedSample

RENDERED_CACHE_SIZE = 256
"""Samples rendered ahead of the one in work are not rendered again."""


class UnitLoader:
    """Renders the samples of a unit for one model; holds no position of its own."""

    def __init__(
        self, index: SampleIndex, order: SampleOrder, processor: ModelProcessor, batch: BatchShape
    ) -> None:
        self.index = index
        self.order = order
        self.processor = processor
        self.batch = batch
        self._rendered = lru_cache(maxsize=RENDERED_CACHE_SIZE)(self._render)

    def load(
        self,
        step: int,
        microbatch: int,
        student_rank: int,
        *,
        with_pixels: bool,
        pad_to_multiple_of: int = 1,
    ) -> Microbatch:
        """Return a unit as a padded batch on the CPU; images are decoded only `with_pixels`."""
        numbers = samples_of_unit(
            self.order, step=step, microbatch=microbatch, student_rank=student_rank, batch=self.batch
        )
        rendered = [self._rendered(number) for number in numbers]
        vision = None
        if with_pixels:
            paths = [path for number in numbers for path in self.index[number].images]
            vision = self.processor.pixels([_open(path) for path in paths])
        return self.processor.collate(rendered, vision, pad_to_multiple_of=pad_to_multiple_of)

    def _render(self, number: int) -> RenderedSample:
        return self.processor.render(self.index[number], self.index.facts[number].image_sizes)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
