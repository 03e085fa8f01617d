"""The teacher's decoder-only language body on megatron-core: embedding, rotary positions, layers, final norm.

There is no head: hidden states after the final norm are what the student side needs, and it holds a copy of
the head. One instance is one pipeline stage of one tensor-parallel rank.
"""

import torch
import torch.nn.functional as F
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.embeddings.rotary_pos_embedding import (
    MultimodalRotaryEmbedding,
    RotaryEmbedding,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import scatter_to_sequence_parallel_region
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    linear_with_frozen_weight,
)
from megatron.core.transformer.transformer_block import TransformerBlock, TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from genrecal_mcore.config import LanguageBodySpec
from genrecal_mcore.models.packed_attention import Packing
from genrecal_mcore.models.teacher.layer_spec import decoder_spec
from genrecal_mcore.models.teacher.stage_layout import StageLayout
from genrecal_mcore.parallel import MeshSpec


def transformer_config(
    spec: LanguageBodySpec, mesh: MeshSpec, *, stage: int, dtype: torch.dtype
) -> TransformerConfig:
    """Translate the sizes of a language body into mcore's configuration, as one pipeline stage needs it."""
    return TransformerConfig(
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        num_attention_heads=spec.num_attention_heads,
        num_query_groups=spec.num_query_groups,
        kv_channels=spec.head_dim,
        ffn_hidden_size=spec.ffn_hidden_size,
        normalization="RMSNorm",
        layernorm_epsilon=spec.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=spec.qkv_bias,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=False,
        gradient_accumulation_fusion=False,
        apply_rope_fusion=False,
        mrope_section=list(spec.mrope_section) if spec.mrope_section else None,
        tensor_model_parallel_size=mesh.tp,
        pipeline_model_parallel_size=mesh.pp,
        pipeline_model_parallel_layout=StageLayout(mesh, num_layers=spec.num_layers, stage=stage),
        sequence_parallel=mesh.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu_initialization=not torch.cuda.is_available(),
        perform_initialization=False,
    )


class TeacherLanguageBody(torch.nn.Module):
    """One pipeline stage of the frozen language body.

    Child names follow mcore's GPTModel (`embedding`, `decoder`), so that its checkpoint keys apply.
    """

    def __init__(
        self, spec: LanguageBodySpec, mesh: MeshSpec, groups: ProcessGroupCollection, *, dtype: torch.dtype
    ) -> None:
        super().__init__()
        spec.check_divisible(tp=mesh.tp, pp=mesh.pp, layers_per_stage=mesh.layers_per_stage)
        self.spec, self.groups = spec, groups
        stage = groups.pp.rank()
        self.config = transformer_config(spec, mesh, stage=stage, dtype=dtype)
        self.is_first_stage = stage == 0
        self.is_last_stage = stage == mesh.pp - 1
        if self.is_first_stage:
            self.embedding = LanguageModelEmbedding(
                self.config,
                vocab_size=padded_vocab_size(spec.vocab_size, mesh.tp),
                max_sequence_length=spec.max_position_embeddings,
                position_embedding_type="rope",
                scatter_to_sequence_parallel=False,
                tp_group=groups.tp,
            )
        self.rotary = _rotary_embedding(spec, groups)
        self.decoder = _decoder(self.config, decoder_spec(), groups)
        self.requires_grad_(False)
        # mcore picks a linear's kernel at construction by requires_grad; frozen ones need the frozen kernel.
        for module in self.modules():
            if isinstance(module, ColumnParallelLinear | RowParallelLinear):
                module._forward_impl = linear_with_frozen_weight
        self.eval()

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return word embeddings `[b, s, h]`, whole on each tp rank, for ids `[b, s]`. First stage only.

        Only the lookup of mcore's embedding is used: its dropout forks the CUDA random state.
        """
        return self.embedding.word_embeddings(input_ids)

    def scatter_sequence(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Keep this tp rank's part `[s/tp, b, h]` of `[s, b, h]` under sequence parallelism, all of it
        without.
        """
        if not self.config.sequence_parallel:
            return hidden_states
        return scatter_to_sequence_parallel_region(hidden_states, group=self.groups.tp)

    def forward(
        self, hidden_states: torch.Tensor, position_ids: torch.Tensor, packing: Packing
    ) -> torch.Tensor:
        """Run this stage's layers over packed sequences.

        `hidden_states`: global `[t, 1, h]`, local `[t/tp, 1, h]` under sequence parallelism. `position_ids`:
        `[1, t]`, or `[3, 1, t]` for M-RoPE. The last stage returns hidden states after the final norm.

        The loop stands here because `TransformerBlock.forward` forks the CUDA random state under sequence
        parallelism, which a frozen body without dropout does not need and a CPU does not have.
        """
        rotary_pos_emb = self.rotary_freqs(position_ids, packing)
        for layer in self.decoder.layers:
            hidden_states, _ = layer(
                # mcore hands the mask on to `PackedAttention` as it is.
                hidden_states=hidden_states,
                attention_mask=packing,
                rotary_pos_emb=rotary_pos_emb,
            )
        if self.decoder.final_layernorm is not None:
            hidden_states = self.decoder.final_layernorm(hidden_states)
        return hidden_states

    def rotary_freqs(self, position_ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Return rotary angles `[t, 1, 1, d]`."""
        if self.spec.mrope_section:
            return self.rotary(position_ids, list(self.spec.mrope_section))
        return self.rotary(packing.max_length)[position_ids[0]]

    def sharded_state_dict(self) -> dict:
        """Return mcore's description of where each local tensor lies in the checkpoint's whole tensors."""
        metadata = {"dp_cp_group": self.groups.dp_cp, "non_homogeneous_layers": True}
        state = self.decoder.sharded_state_dict(prefix="decoder.", metadata=metadata)
        if self.is_first_stage:
            state |= self.embedding.sharded_state_dict(prefix="embedding.", metadata=metadata)
        return state


def padded_vocab_size(vocab_size: int, tp: int) -> int:
    """Return the vocabulary rounded up to a multiple of tp; the added rows are never looked up."""
    return -(-vocab_size // tp) * tp


def _rotary_embedding(spec: LanguageBodySpec, groups: ProcessGroupCollection) -> torch.nn.Module:
    kind = MultimodalRotaryEmbedding if spec.mrope_section else RotaryEmbedding
    return kind(
        kv_channels=spec.head_dim, rotary_percent=1.0, rotary_base=spec.rotary_base, cp_group=groups.cp
    )


def _decoder(
    config: TransformerConfig, spec: TransformerBlockSubmodules, groups: ProcessGroupCollection
) -> TransformerBlock:
    num_layers = config.pipeline_model_parallel_layout.get_num_layers_to_build(pp_rank=groups.pp.rank())
    submodules = TransformerBlockSubmodules(
        layer_specs=spec.layer_specs * num_layers, layer_norm=spec.layer_norm
    )
    return TransformerBlock(
        config,
        submodules,
        pre_process=groups.pp.rank() == 0,
        post_process=groups.pp.rank() == groups.pp.size() - 1,
        pg_collection=groups,
    )
