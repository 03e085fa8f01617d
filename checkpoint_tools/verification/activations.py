"""What a model computes on a probe, part by part: of a whole module here, of a teacher's ranks in `ranks`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from checkpoint_tools.verification.original import InternVLChat
from checkpoint_tools.verification.probe import Probe
from genrecal_mcore.data.types import RenderedSample, VisionInputs

Activations = dict[str, torch.Tensor]
"""In the order of computation: `embeddings` with image features in them, `layer 0` ..., `final norm`, each
`[s, h]`, and `logits` `[s, v]`."""


@torch.no_grad()
def activations_of(model: nn.Module, probe: Probe) -> list[Activations]:
    """Run a published module or a native model on each sample alone, without padding."""
    forward = _run_original if isinstance(model, InternVLChat) else _run_native
    return [
        _activations(model, forward, sample, vision)
        for sample, vision in zip(probe.samples, probe.vision, strict=True)
    ]


def first_difference(expected: list[Activations], found: list[Activations], *, min_cosine: float) -> str:
    """Name the first part of which a position's cosine to what was expected is below `min_cosine`."""
    for name in expected[0]:
        cosines = [cosine(a[name], b[name]).min().item() for a, b in zip(expected, found, strict=True)]
        if min(cosines) < min_cosine:
            return f"first differs at {name} (cosine {min(cosines):.4f})"
    return f"no part differs (cosine {min_cosine} or more)"


def cosine(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return the cosine `[s]` of each position of two `[s, h]`."""
    return torch.cosine_similarity(expected.float().cpu(), found.float().cpu(), dim=-1)


def _activations(
    model: nn.Module,
    forward: Callable[[Any, RenderedSample, VisionInputs | None], torch.Tensor],
    sample: RenderedSample,
    vision: VisionInputs | None,
) -> Activations:
    found: Activations = {}
    with _recording(_parts(model), found):
        found["logits"] = forward(model, sample, vision)[0]
    return found


@contextmanager
def _recording(parts: dict[str, nn.Module], found: Activations) -> Iterator[None]:
    """Keep the output of each part; the first layer's input is the embeddings with images put in."""

    def keep(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            found[name] = (output[0] if isinstance(output, tuple) else output)[0]

        return hook

    def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found["embeddings"] = (args[0] if args else kwargs["hidden_states"])[0]

    handles = [parts["layer 0"].register_forward_pre_hook(keep_input, with_kwargs=True)]
    handles += [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parts(model: Any) -> dict[str, nn.Module]:
    body = model.language_model.model if isinstance(model, InternVLChat) else model.model.language_model
    return {f"layer {i}": layer for i, layer in enumerate(body.layers)} | {"final norm": body.norm}


def _run_original(model: InternVLChat, sample: RenderedSample, vision: VisionInputs | None) -> torch.Tensor:
    return model(sample.input_ids[None], None if vision is None else vision.pixel_values)


def _run_native(model: PreTrainedModel, sample: RenderedSample, vision: VisionInputs | None) -> torch.Tensor:
    """Let the class itself find positions, which it does from the tokens alone."""
    inputs: dict[str, Any] = {"input_ids": sample.input_ids[None].to(model.device)}
    if vision is not None:
        inputs["pixel_values"] = vision.pixel_values.to(model.device, model.dtype)
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None  # or the offset of the last image would be used again
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
        if vision is not None:
            assert vision.image_grid_thw is not None
            inputs["image_grid_thw"] = vision.image_grid_thw.to(model.device)
    return model(**inputs, use_cache=False).logits
