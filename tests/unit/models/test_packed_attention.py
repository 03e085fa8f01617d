from itertools import pairwise

import pytest
import torch
from transformers import Qwen2Config

from genrecal_mcore.models import Packing, use_packed_attention
from genrecal_mcore.models.packed_attention import packed_causal_attention

BOUNDS = (0, 5, 6, 13)
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 4
ATOL = 1e-12  # fp64; worst seen 2e-16


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax written out over one whole matrix of scores, other sequences and later positions masked."""
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (key, value))
    scores = torch.einsum("qnd,knd->nqk", query, key) / HEAD_DIM**0.5
    visible = torch.zeros(len(query), len(query), dtype=torch.bool)
    for start, end in pairwise(BOUNDS):
        visible[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("nqk,knd->qnd", weights, value)


def test_values_and_gradients_are_those_of_a_block_diagonal_causal_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(BOUNDS[-1], heads, HEAD_DIM, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    weight = torch.randn(BOUNDS[-1], HEADS, HEAD_DIM, generator=generator, dtype=torch.float64)
    found = packed_causal_attention(*inputs, Packing.of(BOUNDS, torch.device("cpu")), scale=None)
    expected = naive(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=ATOL)
    found_gradients = torch.autograd.grad((found * weight).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=ATOL)


def test_positions_begin_again_with_each_sequence() -> None:
    packing = Packing.of(BOUNDS, torch.device("cpu"))
    assert packing.positions.tolist() == [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 6]
    assert packing.max_length == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_dropout": 0.1}, "attention_dropout 0.1; expected 0"),
        ({"use_sliding_window": True, "max_window_layers": 0}, "expected use_sliding_window false"),
    ],
)
def test_what_packed_attention_does_not_have_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use_packed_attention(Qwen2Config(num_hidden_layers=2, sliding_window=4, **changes))
