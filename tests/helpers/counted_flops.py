"""torch's counter of flops, told about what it overlooks: products that are added in place, and the CPU's
fused attention, of which only the pairs that its mask leaves count.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ATEN = torch.ops.aten
PRODUCTS_FORWARD, PRODUCTS_BACKWARD = 2, 5


def counted_flops() -> FlopCounterMode:
    """Return a counter to enter; ask `get_total_flops` after."""
    return FlopCounterMode(
        display=False,
        custom_mapping={
            ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
            ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
            ATEN.addmm_: _added_product,
        },
    )


def _attention_forward(query: Any, key: Any, *rest: Any, is_causal: bool = False, **_: Any) -> int:
    is_causal = rest[2] if len(rest) > 2 else is_causal  # value, dropout_p, is_causal
    return PRODUCTS_FORWARD * _product_flops(query, key, is_causal=is_causal)


def _attention_backward(_: Any, query: Any, key: Any, *rest: Any, **__: Any) -> int:
    return PRODUCTS_BACKWARD * _product_flops(query, key, is_causal=rest[4])


def _product_flops(query: torch.Size, key: torch.Size, *, is_causal: bool) -> int:
    batch, heads, length, head_dim = query
    pairs = length * (length + 1) // 2 if is_causal else length * key[2]
    return 2 * batch * heads * head_dim * pairs


def _added_product(_: Any, left: torch.Size, right: torch.Size, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]
