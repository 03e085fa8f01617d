from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration

from genrecal_mcore.data.images import ImageFile
from genrecal_mcore.data.processor import ModelProcessor, load_processor
from genrecal_mcore.data.types import RenderedSample, Sample, Turn

SIZES = ((48, 24), (20, 24))
"""Width, height of the first and the second image of a conversation: of unlike numbers of tokens."""

NO_IMAGE = (Turn(question="Is there a circle?", answer="yes, it is"),)
ONE_IMAGE = (Turn(question="<image>\nWhat shape is shown here?", answer="a red rectangle"),)
TWO_IMAGES = (Turn(question="<image>\n<image>\nHow many shapes?", answer="2"),)
TEXT_TURNS = (*NO_IMAGE, Turn(question="What color?\n", answer="It is blue.\nReally."))
IMAGE_TURNS = (*ONE_IMAGE, Turn(question="And this?<image>\nIs it blue?", answer="no"))
CONVERSATIONS = {
    "no-image": NO_IMAGE,
    "one-image": ONE_IMAGE,
    "two-images": TWO_IMAGES,
    "turns-without-image": TEXT_TURNS,
    "image-in-each-turn": IMAGE_TURNS,
}
each_conversation = pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())


def sizes_of(turns: Sequence[Turn]) -> tuple[tuple[int, int], ...]:
    return SIZES[: sum(turn.question.count("<image>") for turn in turns)]


def render(processor: ModelProcessor, turns: tuple[Turn, ...]) -> RenderedSample:
    sizes = sizes_of(turns)
    names = [f"{number}.png" for number in range(len(sizes))]
    images = tuple(ImageFile(name=name, path=Path(name)) for name in names)
    return processor.render(Sample(id="a", images=images, turns=turns, source="set"), sizes)


def blank(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, color=(7, 77, 177))


def templated_ids(processor: ModelProcessor, turns: Sequence[Turn]) -> list[int]:
    """Return what the model's own template writes, with image tokens expanded as its processor does."""
    messages = []
    for turn in turns:
        content: list[dict[str, str]] = []
        for number, text in enumerate(turn.question.replace("<image>\n", "<image>").split("<image>")):
            content += [{"type": "image"}] * bool(number) + [{"type": "text", "text": text}]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": turn.answer}]
    text = processor.tokenizer.apply_chat_template(messages, tokenize=False)
    pieces = text[: text.rindex("<|im_end|>") + len("<|im_end|>")].split(processor.chat.image_token)
    for size in sizes_of(turns):
        tokens = processor.chat.image_token * sum(processor.pixels([blank(size)]).features_per_item)
        if "<img>" in processor.tokenizer.get_vocab():
            tokens = f"<img>{tokens}</img>"
        pieces[:2] = [pieces[0] + tokens + pieces[1]]
    return processor.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]


@each_conversation
def test_rendering_equals_the_models_own_chat_template(
    processor: ModelProcessor, turns: tuple[Turn, ...]
) -> None:
    assert render(processor, turns).input_ids.tolist() == templated_ids(processor, turns)


@each_conversation
def test_answer_spans_hold_the_answer_and_its_end_of_turn(
    processor: ModelProcessor, turns: tuple[Turn, ...]
) -> None:
    rendered = render(processor, turns)
    texts = [processor.decode(rendered.input_ids[start:end].tolist()) for start, end in rendered.answer_spans]
    assert texts == [turn.answer + "<|im_end|>" for turn in turns]
    assert rendered.answer_spans[-1][1] == len(rendered.input_ids)
    assert rendered.num_answer_tokens == sum(end - start for start, end in rendered.answer_spans)


@each_conversation
def test_a_prompt_is_the_rendering_before_the_last_answer(
    processor: ModelProcessor, turns: tuple[Turn, ...]
) -> None:
    rendered = render(processor, turns)
    prompt = processor.render_prompt(turns, sizes_of(turns))
    assert prompt == rendered.input_ids[: rendered.answer_spans[-1][0]].tolist()


def test_image_tokens_are_counted_without_pixels_as_the_image_processor_counts(
    processor: ModelProcessor,
) -> None:
    turn = (Turn(question="<image>?", answer="yes"),)
    edges = (5, 8, 13, 24, 25, 40, 47, 64, 100)
    for size in [(width, height) for width in edges for height in edges]:
        sample = Sample(
            id="a", images=(ImageFile(name="0.png", path=Path("0.png")),), turns=turn, source="set"
        )
        rendered = processor.render(sample, [size])
        out = processor.image_processor(images=[blank(size)], return_tensors="pt")
        if "image_grid_thw" in out:
            expected = out["image_grid_thw"].prod(-1) // 4
        else:
            expected = torch.full((out["pixel_values"].shape[0],), 4)
        assert rendered.features_per_item == tuple(expected.tolist()), size
        assert (rendered.input_ids == processor.image_token_id).sum() == expected.sum(), size


@pytest.mark.parametrize("turns", [NO_IMAGE, ONE_IMAGE, TWO_IMAGES, IMAGE_TURNS])
def test_qwen2_vl_positions_equal_the_models_rope_index(
    model_folders: dict[str, Path], turns: tuple[Turn, ...]
) -> None:
    processor = load_processor(model_folders["qwen2_vl"])
    model = Qwen2VLForConditionalGeneration.from_pretrained(model_folders["qwen2_vl"]).model
    rendered = render(processor, turns)
    ids = rendered.input_ids[None]
    vision = processor.pixels([blank(size) for size in sizes_of(turns)])
    expected, _ = model.get_rope_index(
        ids,
        mm_token_type_ids=(ids == processor.image_token_id).int(),
        image_grid_thw=vision.image_grid_thw if vision else None,
    )
    assert torch.equal(rendered.position_ids, expected[:, 0])


def test_internvl_positions_count_every_token(model_folders: dict[str, Path]) -> None:
    rendered = render(load_processor(model_folders["internvl_qwen2"]), TWO_IMAGES)
    assert rendered.position_ids.tolist() == list(range(len(rendered.input_ids)))


def test_text_that_looks_like_a_special_token_stays_text(processor: ModelProcessor) -> None:
    fake = f"<|im_end|>{processor.chat.image_token}<|endoftext|>"
    turns = (Turn(question=f"{fake}?", answer=f"no {fake}"),)
    rendered = render(processor, turns)
    ids = rendered.input_ids.tolist()
    (start, end) = rendered.answer_spans[0]
    assert ids[start:].count(processor.end_of_turn_id) == 1
    assert processor.image_token_id not in ids
    assert processor.tokenizer.pad_token_id not in ids
    assert processor.decode(ids[start:end]) == f"no {fake}<|im_end|>"
