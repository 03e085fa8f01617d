"""The student: an ordinary Hugging Face VLM, its body and its head apart, LoRA on the language body alone.

Only native classes are used; remote code is never run. What learns in which stage is said in
`training.stages`.
"""

import json
import logging
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from genrecal_mcore.config import family_of_hf_folder
from genrecal_mcore.models.packed_attention import Packing
from genrecal_mcore.models.vision import image_features, scatter_features
from genrecal_mcore.native import load_native_model

logger = logging.getLogger(__name__)

LORA_TARGETS = r"layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
"""Linears of the language body, by their names inside it; the vision tower has layers of the same names."""


def check_student_folder(folder: Path) -> None:
    """Raise `ValueError` naming the file when a folder is of no known family or its weights are not whole.

    Only headers are read: this is the check before a job, not the loading.
    """
    family_of_hf_folder(folder)
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for path in (folder / name for name in sorted(names)):
        if not path.is_file():
            raise ValueError(f"student.checkpoint: {path} does not exist; download it or name another folder")
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"student.checkpoint: {path} is not a whole safetensors file ({error}); download it again"
            ) from None


def load_student(folder: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """Load a Hugging Face VLM from `folder`, on CPU, nothing learning yet.

    The folder may be in any layout of `layouts`. Raises `ValueError` when its weights are not those of its
    class, naming them.
    """
    try:
        model = load_native_model(folder, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"student.checkpoint: {error}") from None
    model.config.use_cache = False
    return model.requires_grad_(False)


def vision_encoder(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules that never learn: the vision tower without the projector after it."""
    body = model.model
    if hasattr(body, "vision_tower"):
        return [body.vision_tower]
    return [body.visual.patch_embed, body.visual.blocks]


def vision_side(model: PreTrainedModel) -> list[nn.Module]:
    """Return everything that pixels pass on their way into the language body: tower and projector."""
    body = model.model
    if hasattr(body, "vision_tower"):
        return [body.vision_tower, body.multi_modal_projector]
    return [body.visual]


def add_lora(model: PreTrainedModel, *, r: int, alpha: int, dropout: float, seed: int) -> None:
    """Put LoRA adapters into the language body in place; they alone learn.

    The adapters' A matrices are drawn from `seed`, B starts at zero.
    """
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=LORA_TARGETS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model.model.language_model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge_lora(model: PreTrainedModel) -> None:
    """Fold the adapters into the weights they adapt, in place, and leave plain linears behind."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())


def learn_body(model: PreTrainedModel) -> None:
    """Let the language body's decoder layers and last norm learn, and nothing else."""
    model.requires_grad_(False)
    body = model.model.language_model
    for module in (body.layers, body.norm):
        module.requires_grad_(True)


def learn_all_but_vision_encoder(model: PreTrainedModel) -> None:
    """Let every parameter learn except the vision encoder's (stage 3)."""
    model.requires_grad_(True)
    for module in vision_encoder(model):
        module.requires_grad_(False)


def checkpoint_layers(model: PreTrainedModel, *, num_layers: int) -> None:
    """Let the first `num_layers` decoder layers be computed again in the backward pass, in place.

    The first ones: when their turn comes, the last ones have let go of what they kept.
    """
    body = model.model.language_model
    body.activation_checkpointing_enable()
    # It also makes embeddings ask for gradients, for reentrant checkpointing, which this is not. Asked of the
    # whole model it would do so to the patches too, and keep a graph of the frozen vision tower.
    body.disable_input_require_grads()
    for layer in body.layers[num_layers:]:
        layer.gradient_checkpointing = False


def student_embeddings(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor | None,
    image_grid_thw: torch.Tensor | None,
) -> torch.Tensor:
    """Return what the language body reads, `[1, t, h_s]`: ids `[1, t]` embedded, images in their places."""
    embeddings = model.get_input_embeddings()(input_ids)
    if pixel_values is None:
        return embeddings
    features = image_features(model.model, pixel_values, image_grid_thw)
    return scatter_features(embeddings, input_ids, features, model.config.image_token_id)


def student_body(
    model: PreTrainedModel, embeddings: torch.Tensor, position_ids: torch.Tensor, packing: Packing
) -> torch.Tensor:
    """Return `z`, the hidden states `[t, h_s]` after the final norm (Alg. 1 line 3), for `[1, t, h_s]`.

    `position_ids` `[1, t]`, or `[3, 1, t]` for M-RoPE, always given: Qwen2-VL keeps the offset of the last
    image in the model and would use it here. The body attends as `use_packed_attention` says.
    """
    out = model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        attention_mask=None,
        use_cache=False,
        packing=packing,
    )
    return out.last_hidden_state[0]
