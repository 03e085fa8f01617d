"""NVLM-D on InternVL's classes: another projector and, where its files need it, a wider vision attention.

transformers has no class for it. Source: `nvlm_d.py` and `intern_vit.py` of vLLM.
"""

import torch
from torch import nn
from transformers.models.internvl.configuration_internvl import InternVLConfig
from transformers.models.internvl.modeling_internvl import (
    InternVLForConditionalGeneration,
    InternVLVisionAttention,
)


class NvlmDForConditionalGeneration(InternVLForConditionalGeneration):
    """InternVL with what `layouts.nvlm_d.native_config` adds to its config.

    `projector_ffn_size`: channels between the projector's two linears, which have no bias.
    `vision_config.num_dummy_heads`: heads added to the vision tower's; the tower's width stays.
    """

    def __init__(self, config: InternVLConfig) -> None:
        super().__init__(config)
        projector, ffn_size = self.model.multi_modal_projector, config.projector_ffn_size
        projector.linear_1 = nn.Linear(projector.linear_1.in_features, ffn_size, bias=False)
        projector.linear_2 = nn.Linear(ffn_size, config.text_config.hidden_size, bias=False)
        if config.vision_config.num_dummy_heads:
            for layer in self.model.vision_tower.encoder.layer:
                _add_heads(layer.attention, config.vision_config.num_dummy_heads)


def _add_heads(attention: InternVLVisionAttention, num_heads: int) -> None:
    """Widen an `InternVLVisionAttention` inside: its input and output keep their width."""
    width = attention.embed_dim
    attention.num_heads += num_heads
    attention.embed_dim = wide = attention.num_heads * attention.head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, nn.Linear(width, wide, bias=getattr(attention, name).bias is not None))
    attention.projection_layer = nn.Linear(wide, width)
    for name in ("q_norm", "k_norm"):
        setattr(attention, name, PaddedRMSNorm(wide, num_real=width))


class PaddedRMSNorm(nn.Module):
    """RMSNorm over `[..., c]` whose mean square is that of the first `num_real` channels.

    Source: `InternViTRMSNorm` in `examples/multimodal/nvlm/internvit.py` of Megatron-LM.
    """

    def __init__(self, num_channels: int, *, num_real: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.num_real, self.eps = num_real, eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalise in fp32, scale in the input's dtype."""
        x = hidden_states.float()
        mean_square = x[..., : self.num_real].pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(mean_square + self.eps)).to(hidden_states.dtype)
