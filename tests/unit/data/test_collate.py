from pathlib import Path

import torch
from PIL import Image

from genrecal_mcore.data.images import ImageFile
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.types import RenderedSample, Sample, Turn

SIZE = (48, 24)
SHORT = (Turn(question="Is there a circle?", answer="yes"),)
LONG = (
    Turn(question="<image>\nWhat shape is shown here, and how many do you see?", answer="a red rectangle"),
    Turn(question="Is it blue?", answer="no, it is red"),
)


def render(processor: ModelProcessor, turns: tuple[Turn, ...]) -> RenderedSample:
    images = (ImageFile(name="0.png", path=Path("0.png")),) if "<image>" in turns[0].question else ()
    return processor.render(Sample(id="a", images=images, turns=turns, source="set"), [SIZE] * len(images))


def test_collate_packs_samples_one_after_another(processor: ModelProcessor) -> None:
    rendered = [render(processor, SHORT), render(processor, LONG)]
    short, long = (len(sample.input_ids) for sample in rendered)
    batch = processor.collate(rendered, pad_to_multiple_of=23)
    total = batch.input_ids.shape[1]
    assert short + long < total == -(-(short + long) // 23) * 23
    assert batch.lengths == (short, long)
    assert batch.bounds == (0, short, short + long, total)
    assert batch.position_ids.shape[-2:] == (1, total)
    for start, sample in zip(batch.bounds, rendered, strict=False):
        end = start + len(sample.input_ids)
        assert torch.equal(batch.input_ids[0, start:end], sample.input_ids)
        assert torch.equal(batch.position_ids[..., 0, start:end], sample.position_ids)
    assert set(batch.input_ids[0, short + long :].tolist()) == {processor.tokenizer.pad_token_id}


def test_prompts_are_padded_on_the_left(processor: ModelProcessor) -> None:
    prompts = [processor.render_prompt(SHORT, ()), processor.render_prompt(LONG, [SIZE])]
    vision = processor.pixels([Image.new("RGB", SIZE)])
    inputs = processor.collate_prompts(prompts, vision)
    for row, prompt in enumerate(prompts):
        padding = len(prompts[1]) - len(prompt)
        assert inputs["input_ids"][row].tolist() == [processor.pad_token_id] * padding + prompt
        assert inputs["attention_mask"][row].tolist() == [0] * padding + [1] * len(prompt)
    assert torch.equal(inputs["pixel_values"], vision.pixel_values)
    if vision.image_grid_thw is not None:
        is_image = (inputs["input_ids"] == processor.image_token_id).long()
        assert torch.equal(inputs["mm_token_type_ids"], is_image)
        assert torch.equal(inputs["image_grid_thw"], vision.image_grid_thw)


def test_prompts_without_images_bring_no_pixels(processor: ModelProcessor) -> None:
    inputs = processor.collate_prompts([processor.render_prompt(SHORT, ())], processor.pixels([]))
    assert set(inputs) == {"input_ids", "attention_mask"}
