"""Causal attention over several sequences packed into one, for teacher, student and Recalibrator alike.

No position of one sequence sees another, and nothing is computed for pairs that do not: on a GPU in half
precision by torch's variable-length flash attention, elsewhere one sequence after another.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, PretrainedConfig
from transformers.masking_utils import AttentionMaskInterface

NAME = "genrecal_packed"
"""What a transformers config calls this attention."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packing:
    """Where the sequences of a packed one begin and end."""

    bounds: tuple[int, ...]
    """Beginnings, and t."""
    cu_seqlens: torch.Tensor
    """The same `[num_sequences + 1]` int32, on the device."""

    @classmethod
    def of(cls, bounds: tuple[int, ...], device: torch.device) -> "Packing":
        """Return the packing with these bounds."""
        return cls(bounds=bounds, cu_seqlens=torch.tensor(bounds, dtype=torch.int32, device=device))

    @property
    def max_length(self) -> int:
        """Length of the longest sequence."""
        return max(end - start for start, end in pairwise(self.bounds))

    @property
    def positions(self) -> torch.Tensor:
        """Return `[t]`: 0, 1, ... in each sequence."""
        # The size is said, or a GPU would have to be asked for it.
        starts = self.cu_seqlens[:-1].repeat_interleave(self.cu_seqlens.diff(), output_size=self.bounds[-1])
        return torch.arange(self.bounds[-1], device=self.cu_seqlens.device) - starts


def packed_causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, *, scale: float | None
) -> torch.Tensor:
    """Return `[t, n, d]` for query `[t, n, d]`, key and value `[t, n_kv, d]`."""
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _flash_attention(query, key, value, packing, scale=scale)
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))  # [1, n, t, d]
    attended = [
        F.scaled_dot_product_attention(
            query[:, :, start:end],
            key[:, :, start:end],
            value[:, :, start:end],
            is_causal=True,
            scale=scale,
            enable_gqa=True,
        )
        for start, end in pairwise(packing.bounds)
    ]
    whole = torch.cat(attended, dim=2) if len(attended) > 1 else attended[0]
    return whole[0].transpose(0, 1)


def _flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, *, scale: float | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query,
        key,
        value,
        packing.cu_seqlens,
        packing.cu_seqlens,
        packing.max_length,
        packing.max_length,
        scale=scale,
        window_size=(-1, 0),  # causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, torch.Tensor)
    return out


def use_packed_attention(config: PretrainedConfig) -> None:
    """Let the language body or blocks of this config attend so; their forward then needs `packing`.

    Raises `ValueError` when the config asks for what it has not: dropout, or a sliding window.
    """
    if getattr(config, "attention_dropout", 0.0):
        raise ValueError(
            f"the student's config.json has attention_dropout {config.attention_dropout}; expected 0: "
            "packed attention has no dropout"
        )
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise ValueError(
            "the student's config.json has layers with a sliding window; expected use_sliding_window false: "
            "packed attention looks at whole sequences"
        )
    AttentionInterface.register(NAME, _attention_of_transformers)
    AttentionMaskInterface.register(NAME, _no_mask)
    config._attn_implementation = NAME


def _attention_of_transformers(  # noqa: PLR0913 - the signature is theirs
    _: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    packing: Packing,
    scaling: float | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Return `[1, t, n, d]` for query `[1, n, t, d]`, key and value `[1, n_kv, t, d]`."""
    del attention_mask
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed_causal_attention(query, key, value, packing, scale=scaling)[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """Make no mask: the packing says it all."""
