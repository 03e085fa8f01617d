"""Flops of vision towers at their published width against those that torch counts."""

import pytest
import torch

from genrecal_mcore.models.vision import image_features
from genrecal_mcore.planning.decoder_costs import projector_flops, tower_attention_flops, tower_linear_flops
from genrecal_mcore.planning.shapes import vision_shape
from tests.helpers.counted_flops import counted_flops
from tests.helpers.planned import published_tower

TOWERS = {"Qwen2-VL-2B": "cpu", "Qwen2.5-VL-7B": "cpu", "InternVL2.5-1B": "meta", "NVLM-D-72B": "meta"}
"""With the device on which to count; Qwen's towers look at their grid."""
GRID = torch.tensor([[1, 32, 16], [1, 16, 16]])
"""Of two images, in patches; sides that windows of 8 x 8 patches fill."""


@pytest.mark.parametrize(("name", "device"), TOWERS.items(), ids=TOWERS)
def test_images_have_the_flops_that_torch_counts(name: str, device: str) -> None:
    with torch.device(device):
        model = published_tower(name)
    shape = vision_shape(model.config)
    items, grid = (shape.tokens_per_tile or 0,) * 2, None
    pixels = torch.zeros(2, 3, 448, 448, device=device)
    if shape.tokens_per_tile is None:
        items, grid = tuple((GRID.prod(-1) // shape.patches_per_token).tolist()), GRID
        pixels = torch.zeros(int(GRID.prod(-1).sum()), shape.pixels_per_patch)
    with torch.no_grad(), counted_flops() as counter:
        image_features(model.model, pixels, grid)
    counted = projector_flops(shape, sum(items))
    counted += sum(tower_linear_flops(shape, n) + tower_attention_flops(shape, n) for n in items)
    assert counted == counter.get_total_flops()
