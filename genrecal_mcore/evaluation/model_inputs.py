"""Turns questions into a model's inputs: images opened, prompts rendered, batches padded.

May be used by several threads at once.
"""

from collections.abc import Sequence
from threading import Lock

import torch
from PIL import Image

from genrecal_mcore.data import BrokenSample, ModelProcessor
from genrecal_mcore.evaluation.images import open_images
from genrecal_mcore.evaluation.question import Question
from genrecal_mcore.layouts import language_body_spec


class ModelInputs:
    """Makes inputs for one model."""

    def __init__(self, processor: ModelProcessor) -> None:
        self.processor = processor
        self.max_tokens = language_body_spec(processor.hf_config).max_position_embeddings
        # A call sets how the tokenizer encodes, then encodes: nobody else's call may come in between.
        self._tokenizer_lock = Lock()

    def num_tokens(self, question: Question, *, max_new_tokens: int) -> int:
        """Return the length of a question's prompt, after decoding its images.

        Raises `BrokenSample` for an image that does not decode, and for a prompt and answer that together
        have more tokens than the model has positions.
        """
        prompt = self._prompt(question, open_images(question.images))
        if len(prompt) + max_new_tokens > self.max_tokens:
            raise BrokenSample(
                f"{len(prompt)} tokens and {max_new_tokens} for the answer are more than the model's "
                f"{self.max_tokens} positions"
            )
        return len(prompt)

    def batch(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        """Return the keyword arguments of transformers' `generate`: ids `[b, s]` padded left, pixels."""
        images = [open_images(question.images) for question in questions]
        prompts = [self._prompt(question, own) for question, own in zip(questions, images, strict=True)]
        vision = self.processor.pixels([image for own in images for image in own])
        return self.processor.collate_prompts(prompts, vision)

    def _prompt(self, question: Question, images: Sequence[Image.Image]) -> list[int]:
        with self._tokenizer_lock:
            return self.processor.render_prompt(question.turns, [image.size for image in images])
