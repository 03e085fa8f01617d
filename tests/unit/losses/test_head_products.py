"""On a machine with a GPU the same products are checked there, in their own way of multiplying."""

import pytest
import torch

from genrecal_mcore.losses.head_products import add_head_gradient_, rows_gradient, scaled, write_logits

N, H, V = 7, 24, 211
RTOL = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}
"""Of the norm, for results that are never rounded to the head's dtype; worst seen 3e-7 below fp64."""
RTOL_ROUNDED_FACTOR = 4e-3  # a GPU multiplies the gradient of the logits in 16 bits
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
each_dtype = pytest.mark.parametrize("dtype", RTOL, ids=lambda dtype: str(dtype).removeprefix("torch."))
each_device = pytest.mark.parametrize("device", DEVICES)


def random(*shape: int, dtype: torch.dtype, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@each_dtype
@each_device
def test_logits_are_not_rounded_to_the_heads_dtype(device: str, dtype: torch.dtype) -> None:
    rows, head = random(N, H, dtype=dtype, device=device), random(V, H, dtype=dtype, device=device)
    logits = torch.empty(N, V, dtype=wide(dtype), device=device)
    write_logits(rows, head, out=logits)
    assert relative_difference(logits, rows.double() @ head.double().t()) < RTOL[dtype]


@each_dtype
@each_device
def test_gradients_of_rows_and_head_are_summed_in_the_wide_dtype(device: str, dtype: torch.dtype) -> None:
    rows, head = random(N, H, dtype=dtype, device=device), random(V, H, dtype=dtype, device=device)
    gradient = random(N, V, dtype=wide(dtype), device=device)
    rtol = RTOL_ROUNDED_FACTOR if device == "cuda" and dtype.itemsize == 2 else RTOL[dtype]

    of_rows = rows_gradient(gradient, head)
    of_head = torch.ones(V, H, dtype=wide(dtype), device=device)
    add_head_gradient_(of_head, gradient, rows)

    assert of_rows.dtype == wide(dtype)
    assert relative_difference(of_rows, gradient.double() @ head.double()) < rtol
    assert relative_difference(of_head, 1.0 + gradient.double().t() @ rows.double()) < rtol


@each_device
def test_a_factor_is_not_rounded_to_the_gradients_dtype(device: str) -> None:
    gradient = random(N, H, dtype=torch.bfloat16, device=device)
    factor = torch.tensor(1 / 777, device=device)  # bfloat16 would make it 1 / 775.6
    expected = (gradient.double() / 777).bfloat16()
    assert torch.equal(scaled(gradient, factor, dtype=torch.bfloat16), expected)
