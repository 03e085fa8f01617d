"""Lets a Hugging Face VLM answer: prompts padded on the left, greedy, keys and values cached.

The model is used as its receiver will use it, through `generate`; what it was trained with plays no part.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from transformers import PreTrainedModel

from genrecal_mcore.data import ModelProcessor, Sample
from genrecal_mcore.evaluation.files.conversations import questions_of
from genrecal_mcore.evaluation.model_inputs import ModelInputs
from genrecal_mcore.evaluation.question import Answer


def generate_answers(
    model: PreTrainedModel, processor: ModelProcessor, samples: Sequence[Sample], *, max_new_tokens: int
) -> list[str]:
    """Return the model's answer to the last question of each sample, all in one batch.

    Earlier turns are given with their true answers.
    """
    questions = [[*questions_of(sample, number=1)][-1] for sample in samples]
    inputs = ModelInputs(processor).batch(questions)
    return [answer.text for answer in answer_batch(model, processor, inputs, max_new_tokens=max_new_tokens)]


def answer_batch(
    model: PreTrainedModel,
    processor: ModelProcessor,
    inputs: Mapping[str, torch.Tensor],
    *,
    max_new_tokens: int,
) -> list[Answer]:
    """Return an answer for each prompt of a batch, as `ModelProcessor.collate_prompts` makes it.

    Decoding is greedy; whatever else the model's own `generation_config` sets stays. Raises `RuntimeError`
    saying what to lower when the batch does not fit the GPU.
    """
    stop_token_ids = stop_tokens(model, processor)
    try:
        new_ids = _generate(model, inputs, stop_token_ids=stop_token_ids, max_new_tokens=max_new_tokens)
    except torch.OutOfMemoryError as error:
        num, length = inputs["input_ids"].shape
        raise RuntimeError(
            f"{num} prompts of {length} tokens and {max_new_tokens} for each answer do not fit the GPU's "
            f"memory; lower --batch-tokens ({error})"
        ) from None
    answers = []
    for ids in new_ids.tolist():
        ends = [i for i, token_id in enumerate(ids) if token_id in stop_token_ids]
        text = processor.decode(ids[: ends[0]] if ends else ids).strip()
        answers.append(Answer(text=text, is_cut=not ends))
    return answers


def stop_tokens(model: PreTrainedModel, processor: ModelProcessor) -> frozenset[int]:
    """Return the tokens that end an answer: the chat format's end of turn and what the model itself names."""
    own = model.generation_config.eos_token_id
    own = [] if own is None else own if isinstance(own, list) else [own]
    return frozenset([processor.end_of_turn_id, *own])


@torch.inference_mode()
def _generate(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
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
