"""The table of a Qwen2- or Llama-shaped decoder: the same entries, with or without attention biases.

Megatron names are those that its own `sharded_state_dict` writes, for local and Transformer Engine layers
alike.
"""

from checkpoint_tools.transforms import Entry, fuse_gate_up, fuse_qkv, rename
from genrecal_mcore.config import LanguageBodySpec

_HF = "model.language_model.layers.{layer}."
_MCORE = "decoder.layers.{layer}."

_LAYER = (
    rename(_MCORE + "self_attention.linear_qkv.layer_norm_weight", _HF + "input_layernorm.weight"),
    fuse_qkv(
        _MCORE + "self_attention.linear_qkv.weight",
        _HF + "self_attn.q_proj.weight",
        _HF + "self_attn.k_proj.weight",
        _HF + "self_attn.v_proj.weight",
    ),
    rename(_MCORE + "self_attention.linear_proj.weight", _HF + "self_attn.o_proj.weight"),
    rename(_MCORE + "mlp.linear_fc1.layer_norm_weight", _HF + "post_attention_layernorm.weight"),
    fuse_gate_up(_MCORE + "mlp.linear_fc1.weight", _HF + "mlp.gate_proj.weight", _HF + "mlp.up_proj.weight"),
    rename(_MCORE + "mlp.linear_fc2.weight", _HF + "mlp.down_proj.weight"),
)

_QKV_BIAS = fuse_qkv(
    _MCORE + "self_attention.linear_qkv.bias",
    _HF + "self_attn.q_proj.bias",
    _HF + "self_attn.k_proj.bias",
    _HF + "self_attn.v_proj.bias",
)

_OUTER = (
    rename("embedding.word_embeddings.weight", "model.language_model.embed_tokens.weight"),
    rename("decoder.final_layernorm.weight", "model.language_model.norm.weight"),
)


def decoder_entries(spec: LanguageBodySpec) -> list[Entry]:
    """Return the entries of every layer, of the embedding and of the final norm."""
    layer_entries = (*_LAYER, _QKV_BIAS) if spec.qkv_bias else _LAYER
    return [*_OUTER, *(entry.at_layer(i) for i in range(spec.num_layers) for entry in layer_entries)]
