"""What every model of a comparison is shown: a few token sequences, some with images."""

from dataclasses import dataclass

import torch

from checkpoint_tools.verification.tiny import IMAGE_TOKEN_ID, VISION
from genrecal_mcore.config import Family
from genrecal_mcore.data.families import FAMILIES
from genrecal_mcore.data.processor import collate
from genrecal_mcore.data.types import Microbatch, RenderedSample, VisionInputs

NUM_WORDS = 90
"""Ids below every special token of a tiny model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Samples, and what the vision tower reads of each (None without an image)."""

    samples: tuple[RenderedSample, ...]
    vision: tuple[VisionInputs | None, ...]

    def microbatch(self, *, pad_to_multiple_of: int) -> Microbatch:
        """Return all samples as one packed microbatch."""
        seen = [inputs for inputs in self.vision if inputs is not None]
        vision = None
        if seen:
            grids = [inputs.image_grid_thw for inputs in seen if inputs.image_grid_thw is not None]
            vision = VisionInputs(
                pixel_values=torch.cat([inputs.pixel_values for inputs in seen]),
                image_grid_thw=torch.cat(grids) if grids else None,
                features_per_item=tuple(count for inputs in seen for count in inputs.features_per_item),
            )
        return collate(self.samples, vision, pad_token_id=0, pad_to_multiple_of=pad_to_multiple_of)


def tiny_probe(family: Family, *, seed: int) -> Probe:
    """Return three samples for a tiny model: an image of several tiles or rows, none, a smaller one."""
    generator = torch.Generator().manual_seed(seed)
    is_qwen2 = family in (Family.QWEN2_VL, Family.QWEN2_5_VL)
    # Tiles, or rows and columns of merged patches; then the words before and after the image.
    shapes = [((3,), 5, 13), (None, 9, 6), ((1,), 3, 8)]
    if is_qwen2:
        shapes = [((3, 2), 5, 13), (None, 9, 6), ((2, 4), 3, 8)]
    samples, vision = [], []
    for number, (shape, before, after) in enumerate(shapes):
        words = torch.randint(0, NUM_WORDS, (before + after,), generator=generator)
        seen = None if shape is None else (_qwen2_image if is_qwen2 else _tiles)(shape, generator)
        count = sum(seen.features_per_item) if seen else 0
        grid = shape if is_qwen2 else None
        samples.append(
            RenderedSample(
                sample_id=str(number),
                input_ids=torch.cat([words[:before], torch.full((count,), IMAGE_TOKEN_ID), words[before:]]),
                position_ids=FAMILIES[family].position_ids(
                    before + count + after, [(before, grid)] if seen else []
                ),
                answer_spans=(),
                features_per_item=seen.features_per_item if seen else (),
            )
        )
        vision.append(seen)
    return Probe(samples=tuple(samples), vision=tuple(vision))


def _tiles(shape: tuple[int, ...], generator: torch.Generator) -> VisionInputs:
    size, tokens = VISION["image_size"], (VISION["image_size"] // VISION["patch_size"]) ** 2 // 4
    return VisionInputs(
        pixel_values=torch.randn(shape[0], 3, size, size, generator=generator),
        image_grid_thw=None,
        features_per_item=(tokens,) * shape[0],
    )


def _qwen2_image(shape: tuple[int, ...], generator: torch.Generator) -> VisionInputs:
    height, width = shape  # merged patches, each of 2 x 2 patches of 2 frames, 3 colours, 4 x 4 pixels
    pixels = torch.randn(4 * height * width, 3 * 2 * 4 * 4, generator=generator)
    grid = torch.tensor([[1, 2 * height, 2 * width]])
    return VisionInputs(pixel_values=pixels, image_grid_thw=grid, features_per_item=(height * width,))
