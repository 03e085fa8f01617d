"""The Recalibrator: maps student questions and teacher answers into one space that the teacher's head can
read.

Section 3.1-3.2 and 4.1(a) of the paper. It knows nothing of where its rows come from:
`data.recalibrator_layout` says in which order they stand, `losses.frozen_head` what is done with the result.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

from genrecal_mcore.models.packed_attention import Packing, use_packed_attention

# Qwen2-VL's decoder layer has the parameters of Qwen2's, and M-RoPE with equal rows is plain RoPE.
_BLOCKS = {
    "qwen2": (Qwen2DecoderLayer, Qwen2RotaryEmbedding),
    "qwen2_vl_text": (Qwen2DecoderLayer, Qwen2RotaryEmbedding),
    "llama": (LlamaDecoderLayer, LlamaRotaryEmbedding),
}


SMALLEST_NORM = 1e-12
"""Of an embedding; a row of zeros stays one."""


class RecalibratorBody(nn.Module):
    """Rec-body: decoder blocks of the student's class and sizes, causal, with RoPE positions of their own."""

    def __init__(self, config: PretrainedConfig, num_layers: int) -> None:
        super().__init__()
        self.config = block_config(config, num_layers)
        layer, rotary = _BLOCKS[config.model_type]
        self.layers = nn.ModuleList(layer(self.config, i) for i in range(num_layers))
        self.rotary_emb = rotary(self.config)

    def forward(self, hidden_states: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Return `[1, s, h_s]` for packed `[1, s, h_s]`; each sequence's positions begin at 0."""
        position_embeddings = self.rotary_emb(hidden_states, packing.positions[None])
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings=position_embeddings, packing=packing)
        return hidden_states


class Recalibrator(nn.Module):
    """Rec-proj-pre, Rec-body, Rec-proj-post and the extra LayerNorm, up to but without the teacher's head."""

    def __init__(
        self,
        student_text_config: PretrainedConfig,
        *,
        teacher_hidden_size: int,
        num_layers: int,
        extra_norm: bool = True,
    ) -> None:
        super().__init__()
        hidden_size = student_text_config.hidden_size
        self.rec_proj_pre = nn.Linear(teacher_hidden_size, hidden_size)
        self.rec_body = RecalibratorBody(student_text_config, num_layers)
        self.rec_proj_post = nn.Linear(hidden_size, teacher_hidden_size)
        self.rec_norm = nn.LayerNorm(teacher_hidden_size) if extra_norm else nn.Identity()

    def forward(
        self,
        student_rows: torch.Tensor,
        teacher_rows: torch.Tensor,
        source: torch.Tensor,
        packing: Packing,
    ) -> torch.Tensor:
        """Return recalibrated features `[s, h_t]`, ready for the teacher's head (Alg. 1 line 4).

        Of `student_rows` `[n, h_s]` and `teacher_rows` `[m, h_t]`, `source` `[s]` says which stands where in
        the packed sequences: i for student row i, n + j for teacher row j.
        """
        teacher_rows = self.rec_proj_pre(teacher_rows.to(self.rec_proj_pre.weight.dtype))
        rows = torch.cat([student_rows.to(teacher_rows.dtype), teacher_rows])  # [n + m, h_s]
        hidden_states = self.rec_body(rows[source][None], packing)[0]
        return self.rec_norm(self.rec_proj_post(hidden_states))


def with_embeddings(features: torch.Tensor, rows: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
    """Return teacher features `[m, h_t]` whose `rows` `[k]` are `embeddings` `[k, h_t]`.

    Input embeddings are far smaller than features: each is scaled to the rms of the row whose place it takes.
    """
    wanted, found = (vectors.float().norm(dim=-1, keepdim=True) for vectors in (features[rows], embeddings))
    scaled = embeddings.float() * (wanted / found.clamp(min=SMALLEST_NORM))
    return features.index_copy(0, rows, scaled.to(features.dtype))


def block_config(student_text_config: PretrainedConfig, num_layers: int) -> PretrainedConfig:
    """Return the student's text config with `num_layers` plain causal layers and 1-D RoPE.

    Raises `ValueError` for a text body whose decoder block is not in our table.
    """
    if student_text_config.model_type not in _BLOCKS:
        raise ValueError(
            f"the Recalibrator has no decoder block for a student of model_type "
            f"{student_text_config.model_type!r}; expected one of {sorted(_BLOCKS)}"
        )
    values: dict[str, Any] = copy.deepcopy(student_text_config.to_dict())
    values |= {"num_hidden_layers": num_layers, "layer_types": ["full_attention"] * num_layers}
    if student_text_config.model_type == "qwen2_vl_text":
        rope = values["rope_parameters"]
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
        values.pop("model_type")
        config: PretrainedConfig = Qwen2Config(**values)
    else:
        config = type(student_text_config).from_dict(values)
    use_packed_attention(config)
    return config


def initialise_recalibrator(recalibrator: Recalibrator, *, std: float, seed: int) -> None:
    """Draw every linear weight from N(0, std^2) and zero the biases; norms start as the identity.

    Bare decoder layers come with torch's default of linears, wider than the student's own initialisation.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in recalibrator.modules():
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                drawn = torch.empty(module.weight.shape).normal_(0.0, std, generator=generator)
                module.weight.copy_(drawn)
                if module.bias is not None:
                    module.bias.zero_()
