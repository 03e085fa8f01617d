"""Lets a Hugging Face VLM answer questions: prompts padded on the left, greedy, batched by length.

The model is used as its receiver will use it, through `generate`; what it was trained with plays no part.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import PreTrainedModel

from genrecal_mcore.data import ModelProcessor, Sample


def generate_answers(
    model: PreTrainedModel,
    processor: ModelProcessor,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[str]:
    """Return the model's answer to the last question of each sample, in the samples' order.

    Earlier turns are given with their true answers. Decoding is greedy; whatever else the model's own
    `generation_config` sets stays. Prompts of like length share a batch, so that little is padding.
    """
    prompts = [processor.render_prompt(s.turns, [_size_of(path) for path in s.images]) for s in samples]
    by_length = sorted(range(len(samples)), key=lambda i: -len(prompts[i]))
    stop_token_ids = stop_tokens(model, processor)
    answers = [""] * len(samples)
    for start in range(0, len(samples), batch_size):
        chosen = by_length[start : start + batch_size]
        vision = processor.pixels([_open(path) for i in chosen for path in samples[i].images])
        inputs = processor.collate_prompts([prompts[i] for i in chosen], vision)
        new_ids = _generate(model, inputs, stop_token_ids=stop_token_ids, max_new_tokens=max_new_tokens)
        for i, ids in zip(chosen, new_ids.tolist(), strict=True):
            answers[i] = processor.decode(_until_stop(ids, stop_token_ids)).strip()
    return answers


def stop_tokens(model: PreTrainedModel, processor: ModelProcessor) -> frozenset[int]:
    """Return the tokens that end an answer: the chat format's end of turn and what the model itself names."""
    own = model.generation_config.eos_token_id
    own = [] if own is None else own if isinstance(own, list) else [own]
    return frozenset([processor.end_of_turn_id, *own])


@torch.inference_mode()
def _generate(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    *,
    stop_token_ids: Collection[int],
    max_new_tokens: int,
) -> torch.Tensor:
    """Return the new token ids `[b, n]`; behind its stop token a row holds padding."""
    on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    if "pixel_values" in on_device:
        on_device["pixel_values"] = on_device["pixel_values"].to(model.dtype)
    ids = model.generate(
        **on_device,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=sorted(stop_token_ids),
        pad_token_id=min(stop_token_ids),
    )
    return ids[:, inputs["input_ids"].shape[1] :]


def _until_stop(ids: Sequence[int], stop_token_ids: Collection[int]) -> list[int]:
    ends = [i for i, token_id in enumerate(ids) if token_id in stop_token_ids]
    return list(ids[: ends[0]] if ends else ids)


def _size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
