"""The published remote-code models written down plainly: what a conversion is compared with.

Modules have the names of the published files, so that their state dict is a published checkpoint; nothing is
shared with the tables in `layouts`. Source: `modeling_intern_vit.py`, `modeling_internvl_chat.py` and
`modeling_internlm2.py` of OpenGVLab/InternVL; `nvlm_d.py` of vLLM for the dummy heads and the projector.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

Config = Mapping[str, Any]


class InternVLChat(nn.Module):
    """Vision tower, projector `mlp1`, language model: `InternVLChatModel`, and `NVLM_D_Model`."""

    def __init__(self, config: Config, *, image_token_id: int) -> None:
        super().__init__()
        is_nvlm = config["model_type"] == "NVLM_D"
        body = config["llm_config"]
        self.image_token_id, self.downsample = image_token_id, config["downsample_ratio"]
        self.vision_model = VisionModel(config["vision_config"], num_dummy_heads=7 if is_nvlm else 0)
        width = config["vision_config"]["hidden_size"] * round(1 / self.downsample) ** 2
        inner = body["intermediate_size"] if is_nvlm else body["hidden_size"]
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, inner, bias=not is_nvlm),
            nn.GELU(),
            nn.Linear(inner, body["hidden_size"], bias=not is_nvlm),
        )
        self.language_model = language_model(body)

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return `[n, h]` for tiles `[num_tiles, 3, height, width]`."""
        patches = self.vision_model(pixel_values)[:, 1:]
        side = round(patches.shape[1] ** 0.5)
        grid = patches.unflatten(1, (side, side))
        return self.mlp1(pixel_shuffle(grid, self.downsample).flatten(1, 2)).flatten(0, 1)

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Return logits `[b, s, v]` for ids `[b, s]`."""
        embeddings = self.language_model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            embeddings = embeddings.clone()
            embeddings[input_ids == self.image_token_id] = self.image_features(pixel_values)
        out = self.language_model(inputs_embeds=embeddings)
        return out if isinstance(out, torch.Tensor) else out.logits


def pixel_shuffle(grid: torch.Tensor, scale: float) -> torch.Tensor:
    """Fold `[n, a, b, c]` into `[n, a scale, b scale, c / scale^2]` (`ps_version` v2)."""
    n, a, b, c = grid.shape
    grid = grid.reshape(n, a, int(b * scale), int(c / scale)).permute(0, 2, 1, 3)
    grid = grid.reshape(n, int(b * scale), int(a * scale), int(c / scale**2))
    return grid.permute(0, 2, 1, 3)


class VisionModel(nn.Module):
    """InternViT-300M (LayerNorm, biases) or InternViT-6B (RMSNorm, norms on queries and keys)."""

    def __init__(self, config: Config, *, num_dummy_heads: int) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            VisionLayer(config, num_dummy_heads) for _ in range(config["num_hidden_layers"])
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return `[num_tiles, 1 + num_patches, width]`."""
        x = self.embeddings(pixel_values)
        for layer in self.encoder.layers:
            x = layer(x)
        return x


class VisionEmbeddings(nn.Module):
    """Patches, a class token before them, learned positions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        num_patches = (config["image_size"] // patch) ** 2
        self.class_embedding = nn.Parameter(torch.randn(1, 1, width))
        self.position_embedding = nn.Parameter(torch.randn(1, num_patches + 1, width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return `[num_tiles, 1 + num_patches, width]`."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), -1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding


class VisionLayer(nn.Module):
    """Attention and MLP, each behind a norm, each scaled by channel."""

    def __init__(self, config: Config, num_dummy_heads: int) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        is_rms = config["norm_type"] == "rms_norm"
        self.norm1, self.norm2 = (
            RMSNorm(width, eps=eps) if is_rms else nn.LayerNorm(width, eps=eps) for _ in range(2)
        )
        self.attn = VisionAttention(config, num_dummy_heads)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(width, config["intermediate_size"])
        self.mlp.fc2 = nn.Linear(config["intermediate_size"], width)
        self.ls1, self.ls2 = (nn.Parameter(torch.ones(width)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[b, s, width]` for the same."""
        x = x + self.attn(self.norm1(x)) * self.ls1
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x)))) * self.ls2


class VisionAttention(nn.Module):
    """Attention over all patches; queries and keys may be normalised over the channels of all heads."""

    def __init__(self, config: Config, num_dummy_heads: int) -> None:
        super().__init__()
        width = config["hidden_size"]
        head_dim = width // config["num_attention_heads"]
        self.num_heads = config["num_attention_heads"] + num_dummy_heads
        wide = self.num_heads * head_dim
        self.qkv = nn.Linear(width, 3 * wide, bias=config["qkv_bias"])
        self.proj = nn.Linear(wide, width)
        self.has_norm = config["qk_normalization"]
        if self.has_norm:
            self.q_norm, self.k_norm = (
                RMSNorm(wide, eps=config["layer_norm_eps"], num_real=width) for _ in range(2)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[b, s, width]` for the same."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.has_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class RMSNorm(nn.Module):
    """RMSNorm whose mean square is that of the first `num_real` channels."""

    def __init__(self, width: int, *, eps: float, num_real: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.num_real = eps, num_real or width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise over the last dimension, in fp32 as the original does even for wider types."""
        mean_square = x.float()[..., : self.num_real].pow(2).mean(-1, keepdim=True)
        return self.weight * (x.float() * torch.rsqrt(mean_square + self.eps)).to(x.dtype)


def language_model(body: Config) -> nn.Module:
    """Return the language model of `llm_config`: transformers' own class, or InternLM2's below."""
    architecture = body["architectures"][0]
    if architecture == "InternLM2ForCausalLM":
        return InternLM2(body)
    classes: dict[str, tuple[type, type[PreTrainedModel]]] = {
        "Qwen2ForCausalLM": (Qwen2Config, Qwen2ForCausalLM),
        "LlamaForCausalLM": (LlamaConfig, LlamaForCausalLM),
    }
    config_class, model_class = classes[architecture]
    sizes = {name: value for name, value in body.items() if name not in ("model_type", "rope_theta")}
    rope = {"rope_type": "default", "rope_theta": body["rope_theta"]}
    return model_class(config_class(**sizes, rope_parameters=rope, attn_implementation="sdpa"))


class InternLM2(nn.Module):
    """InternLM2 up to `max_position_embeddings` tokens, where its dynamic RoPE is the plain one."""

    def __init__(self, body: Config) -> None:
        super().__init__()
        hidden_size, eps = body["hidden_size"], body["rms_norm_eps"]
        self.model = nn.Module()
        self.model.tok_embeddings = nn.Embedding(body["vocab_size"], hidden_size)
        self.model.layers = nn.ModuleList(InternLM2Layer(body) for _ in range(body["num_hidden_layers"]))
        self.model.norm = RMSNorm(hidden_size, eps=eps)
        self.output = nn.Linear(hidden_size, body["vocab_size"], bias=False)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of word embeddings."""
        return self.model.tok_embeddings

    def forward(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Return logits `[b, s, v]` for embeddings `[b, s, h]`."""
        x = inputs_embeds
        for layer in self.model.layers:
            x = layer(x)
        return self.output(self.model.norm(x))


class InternLM2Layer(nn.Module):
    """Attention with fused `wqkv`, gated MLP."""

    def __init__(self, body: Config) -> None:
        super().__init__()
        hidden_size, heads = body["hidden_size"], body["num_attention_heads"]
        self.groups, self.rope_theta = body["num_key_value_heads"], body["rope_theta"]
        self.per_group, self.head_dim = heads // self.groups, hidden_size // heads
        rows = (heads + 2 * self.groups) * self.head_dim
        self.attention = nn.Module()
        self.attention.wqkv = nn.Linear(hidden_size, rows, bias=body["bias"])
        self.attention.wo = nn.Linear(hidden_size, hidden_size, bias=body["bias"])
        self.feed_forward = nn.Module()
        self.feed_forward.w1, self.feed_forward.w3 = (
            nn.Linear(hidden_size, body["intermediate_size"], bias=False) for _ in range(2)
        )
        self.feed_forward.w2 = nn.Linear(body["intermediate_size"], hidden_size, bias=False)
        self.attention_norm, self.ffn_norm = (
            RMSNorm(hidden_size, eps=body["rms_norm_eps"]) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `[b, s, h]` for the same."""
        x = x + self._attend(self.attention_norm(x))
        y = self.ffn_norm(x)
        return x + self.feed_forward.w2(F.silu(self.feed_forward.w1(y)) * self.feed_forward.w3(y))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.attention.wqkv(x).unflatten(-1, (self.groups, self.per_group + 2, self.head_dim))
        q, k, v = qkv[..., : self.per_group, :].flatten(2, 3), qkv[..., -2, :], qkv[..., -1, :]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [b, heads, s, d]
        q, k = self._rotate(q), self._rotate(k)
        k, v = (part.repeat_interleave(self.per_group, dim=1) for part in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attention.wo(out.transpose(1, 2).flatten(2))

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        """Rotate `[b, heads, s, d]` by position; angles in fp32 as the original has them."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.int64).float() / self.head_dim
        angles = torch.outer(torch.arange(x.shape[2]).float(), 1.0 / (self.rope_theta**exponents))
        cos, sin = (part.repeat(1, 2).to(x.dtype) for part in (angles.cos(), angles.sin()))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin
