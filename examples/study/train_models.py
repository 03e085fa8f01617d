"""Train one of the small study's models from one of the demo's, on one core, in a few minutes.

Example: python examples/study/train_models.py --role teacher --out runs/study_models

The vision tower and its projector stay as they are; the language model learns the study's three tasks. The
study's first student is the demo's, as it is: what it lacks is language, not sight.
"""

import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from PIL import Image
from tasks import TASKS, TURNS, Task, source_dir, task_records
from transformers import AutoModelForImageTextToText, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1] / "demo"))
from train_tiny_models import IMAGE_SIZE, Budget, learn_to_answer, render

from genrecal_mcore.data import ModelProcessor, RenderedSample, load_processor
from genrecal_mcore.models.vision import image_features

DEMO = Path(__file__).parents[1] / "demo"
Role = Literal["teacher", "small_teacher", "short_student"]
IMAGES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a model is made from, and how much language it learns."""

    start: Path
    budget: Budget
    layers: tuple[int, ...] | None = None
    """Decoder layers to keep; all if left out."""
    tasks: tuple[Task, ...] = TASKS
    """What it is taught."""


RECIPES = {
    "teacher": Recipe(
        start=DEMO / "teacher_hf",
        budget=Budget(vision_steps=0, language_steps=250, num_samples=9000, learning_rate=1e-3),
    ),
    "small_teacher": Recipe(
        start=DEMO / "student_hf",
        budget=Budget(vision_steps=0, language_steps=350, num_samples=9000),
    ),
    "short_student": Recipe(
        start=DEMO / "teacher_hf",
        budget=Budget(vision_steps=0, language_steps=20, num_samples=1600),
        layers=(0, 3),
        tasks=("short", "sentences"),
    ),
}


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Leave only these decoder layers in the language model, in place."""
    body = model.model.language_model
    body.layers = torch.nn.ModuleList(body.layers[number] for number in layers)
    for number, layer in enumerate(body.layers):
        layer.self_attn.layer_idx = number
    text = model.config.text_config
    text.num_hidden_layers = len(layers)
    text.layer_types = text.layer_types[: len(layers)]


def features_by_name(
    model: PreTrainedModel, processor: ModelProcessor, names: Sequence[str]
) -> Mapping[str, torch.Tensor]:
    """Return the projected features `[tokens, h]` of training images, each by its name in the records."""
    features: dict[str, torch.Tensor] = {}
    for start in range(0, len(names), IMAGES_AT_ONCE):
        chunk = names[start : start + IMAGES_AT_ONCE]
        vision = processor.pixels([training_image(name) for name in chunk])
        assert vision is not None
        with torch.no_grad():
            rows = image_features(model.model, vision.pixel_values, vision.image_grid_thw)
        features |= dict(zip(chunk, rows.unflatten(0, (len(chunk), -1)), strict=True))
    return features


def training_image(name: str) -> Image.Image:
    """Return the image that the records call `train/NUMBER_ENDING.png`."""
    number, _, ending = Path(name).stem.partition("_")
    with Image.open(source_dir() / "train" / "images" / f"{number}.png") as image:
        picture = image.convert("RGB")
    turn = TURNS[f"_{ending}" if ending else ""]
    return picture if turn is None else picture.transpose(turn)


def samples(
    model: PreTrainedModel, processor: ModelProcessor, records: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[RenderedSample, torch.Tensor]]:
    """Yield the records rendered, each with the features of its image."""
    features = features_by_name(model, processor, sorted({record["image"] for record in records}))
    for record in records:
        yield render(processor, record, IMAGE_SIZE), features[record["image"]]


def main(
    out: Annotated[Path, typer.Option(help="Folder in which to write ROLE_hf.")],
    role: Annotated[Role, typer.Option(help="Which model to train.")],
    seed: Annotated[int, typer.Option(help="Draws samples and batches.")] = 1,
) -> None:
    """Train one of the study's models on as many samples of each task."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    recipe = RECIPES[role]
    started = time.process_time()
    processor = load_processor(recipe.start)
    model = AutoModelForImageTextToText.from_pretrained(recipe.start, dtype=torch.float32)
    if recipe.layers is not None:
        keep_layers(model, recipe.layers)
    num_each = recipe.budget.num_samples // len(recipe.tasks)
    records = [
        record
        for task in recipe.tasks
        for record in task_records(task, "train", num_samples=num_each, seed=seed)
    ]
    learn_to_answer(model, processor, list(samples(model, processor, records)), recipe.budget)
    folder = out / f"{role}_hf"
    shutil.copytree(recipe.start, folder, dirs_exist_ok=True)
    model.save_pretrained(folder)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{role}: {num_parameters} parameters, {time.process_time() - started:.0f} s of one core")


if __name__ == "__main__":
    typer.run(main)
