"""Chooses the decoder layer of the teacher: Transformer Engine's where it is installed, plain PyTorch
otherwise.

Both write the same parameter names into a checkpoint, so that a folder converted on a CPU loads on a GPU.
"""

import copy
import logging
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from genrecal_mcore.models.packed_attention import Packing, packed_causal_attention

logger = logging.getLogger(__name__)


def has_transformer_engine() -> bool:
    """Return whether Transformer Engine can be imported."""
    try:
        import transformer_engine.pytorch  # noqa: F401
    except ImportError:
        return False
    return True


class PackedAttention(torch.nn.Module):
    """Attention of mcore's layers over packed sequences, with or without Transformer Engine around it.

    Replaces mcore's `DotProductAttention`, which needs `parallel_state` and the CUDA random state, and
    Transformer Engine's, whose packed layout has no M-RoPE in mcore 0.16.
    """

    def __init__(self, config: TransformerConfig, layer_number: int, **_: Any) -> None:
        super().__init__()
        self.softmax_scale = config.softmax_scale
        self.layer_number = layer_number

    def forward(  # noqa: PLR0913 - the signature is mcore's
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Packing,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        """Return `[t, 1, n/tp * d]` for query `[t, 1, n/tp, d]`, key and value `[t, 1, n_kv/tp, d]`."""
        query, key, value = (x.squeeze(1) for x in (query, key, value))
        out = packed_causal_attention(query, key, value, attention_mask, scale=self.softmax_scale)
        return out.flatten(1).unsqueeze(1)


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm in fp32, as the Qwen2 and Llama classes of transformers compute it.

    mcore's own torch norm refuses sequence parallelism.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalise the last dim of `[..., h]`."""
        x = hidden_states.float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(hidden_states.dtype)


def decoder_spec() -> TransformerBlockSubmodules:
    """Return the layer and final norm to build the decoder of."""
    if has_transformer_engine():
        from megatron.core.extensions.transformer_engine import TENorm

        logger.info("teacher decoder: Transformer Engine layers")
        spec = copy.deepcopy(get_gpt_layer_with_transformer_engine_spec())
        spec.submodules.self_attention.submodules.core_attention = PackedAttention
        return TransformerBlockSubmodules(layer_specs=[spec], layer_norm=TENorm)
    logger.info("teacher decoder: local layers (Transformer Engine is not installed)")
    return TransformerBlockSubmodules(layer_specs=[_local_layer_spec()], layer_norm=RMSNorm)


def _local_layer_spec() -> ModuleSpec:
    spec = copy.deepcopy(get_gpt_layer_local_spec(normalization="RMSNorm"))
    spec.submodules.input_layernorm = RMSNorm
    spec.submodules.pre_mlp_layernorm = RMSNorm
    spec.submodules.self_attention.submodules.core_attention = PackedAttention
    return spec
