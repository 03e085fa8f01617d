"""Train one of the demo's models from scratch, on one core, in some ten minutes.

Example: python examples/demo/train_tiny_models.py --out runs/tiny_models --role teacher

A tiny vision transformer does not learn shapes from questions alone: it learns to name shape and colour
first, with its projector; then the language model learns to answer from its features, which stay as they are.
"""

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
import typer
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parent))
from prepare_data import (
    COLORS,
    SENTENCE_REQUEST,
    SHAPES,
    labels_of_images,
    load_questions,
    prepare,
    source_dir,
)
from tiny_models import write_student, write_teacher

from genrecal_mcore.data import (
    ImageFile,
    ModelProcessor,
    RenderedSample,
    Sample,
    Turn,
    label_positions,
    load_processor,
)
from genrecal_mcore.evaluation import BenchmarkFile, EvaluationSettings, evaluate_model
from genrecal_mcore.models import Packing, student_body, use_packed_attention
from genrecal_mcore.models.vision import image_features, scatter_features

BATCH_SIZE = 64
IMAGE_SIZE = (64, 64)
"""Of every easy-VQA image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How many steps a model may learn, and from how many samples."""

    vision_steps: int
    language_steps: int
    num_samples: int
    learning_rate: float = 2e-3


BUDGETS = {
    "teacher": Budget(vision_steps=2500, language_steps=1500, num_samples=30000),
    "student": Budget(vision_steps=2000, language_steps=150, num_samples=3000),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """All training images, preprocessed for one model, and their labels."""

    numbers: dict[int, int]
    """Row of each image number."""
    pixels: torch.Tensor
    """`[num_images, ...]`, what the tower takes for one image."""
    grid: torch.Tensor | None
    labels: torch.Tensor
    """`[num_images, 2]`: color, shape."""


def load_images(processor: ModelProcessor, *, flip: bool) -> ImageSet:
    """Read and preprocess every labelled training image, mirrored when `flip`."""
    labels = labels_of_images(load_questions("train"))
    numbers = sorted(labels)
    rows, grid = [], None
    for number in numbers:
        with Image.open(source_dir() / "train" / "images" / f"{number}.png") as image:
            picture = image.convert("RGB")
        if flip:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        vision = processor.pixels([picture])
        assert vision is not None
        rows.append(vision.pixel_values)
        grid = vision.image_grid_thw
    classes = [(COLORS.index(labels[n][0]), SHAPES.index(labels[n][1])) for n in numbers]
    return ImageSet(
        numbers={number: row for row, number in enumerate(numbers)},
        pixels=torch.stack(rows),
        grid=grid,
        labels=torch.tensor(classes),
    )


def features_of(model: PreTrainedModel, images: ImageSet, rows: torch.Tensor) -> torch.Tensor:
    """Return projected features `[b, tokens, h]` of the images in `rows` `[b]`."""
    pixels = images.pixels[rows].flatten(0, 1)
    grid = images.grid.expand(len(rows), -1) if images.grid is not None else None
    return image_features(model.model, pixels, grid).unflatten(0, (len(rows), -1))


def train_vision(model: PreTrainedModel, processor: ModelProcessor, num_steps: int) -> None:
    """Teach tower and projector to name colour and shape from the mean of their features."""
    sets = [load_images(processor, flip=flip) for flip in (False, True)]
    hidden_size = model.config.get_text_config().hidden_size
    head = torch.nn.Linear(hidden_size, len(COLORS) + len(SHAPES))
    parameters = [p for n, p in model.model.named_parameters() if not n.startswith("language_model")]
    optimizer = torch.optim.AdamW([*parameters, *head.parameters()], weight_decay=0.05)
    for step in range(num_steps):
        set_rate(optimizer, 1e-3, step, num_steps)
        images = sets[step % 2]
        rows = torch.randint(0, len(images.labels), (BATCH_SIZE,))
        logits = head(features_of(model, images, rows).mean(1))
        color, shape = images.labels[rows].unbind(1)
        loss = F.cross_entropy(logits[:, : len(COLORS)], color)
        loss = loss + F.cross_entropy(logits[:, len(COLORS) :], shape)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            hits = (logits[:, len(COLORS) :].argmax(1) == shape).float().mean()
            print(
                f"  vision step {step}: loss {loss.item():.3f}, shapes right {100 * hits:.0f} %", flush=True
            )


def train_language(model: PreTrainedModel, processor: ModelProcessor, data: Path, budget: Budget) -> None:
    """Teach the language model to answer from the features of the frozen tower and projector."""
    images = load_images(processor, flip=False)
    with torch.no_grad():
        rows = torch.arange(len(images.labels)).split(BATCH_SIZE)
        features = torch.cat([features_of(model, images, chunk) for chunk in rows])
    rendered = [
        (render(processor, record, IMAGE_SIZE), features[image])
        for record, image in read_records(data, images.numbers)
    ]
    learn_to_answer(model, processor, rendered, budget)


def learn_to_answer(
    model: PreTrainedModel,
    processor: ModelProcessor,
    rendered: Sequence[tuple[RenderedSample, torch.Tensor]],
    budget: Budget,
) -> None:
    """Teach the language model samples with the features `[tokens, h]` of their image."""
    use_packed_attention(model.model.language_model.config)
    parameters = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05)
    for step in range(budget.language_steps):
        set_rate(optimizer, budget.learning_rate, step, budget.language_steps)
        chosen = random.sample(rendered, BATCH_SIZE)
        features = torch.cat([of_image for _, of_image in chosen])
        loss = answer_loss(model, processor, [sample for sample, _ in chosen], features)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"  language step {step}: loss {loss.item():.4f}", flush=True)


def answer_loss(
    model: PreTrainedModel, processor: ModelProcessor, chosen: list[RenderedSample], features: torch.Tensor
) -> torch.Tensor:
    """Return the mean cross entropy of the answer tokens, given the image features `[n, h]` of all samples.

    The language model attends as `use_packed_attention` says: collated samples are one sequence.
    """
    batch = processor.collate(chosen)
    embeddings = model.get_input_embeddings()(batch.input_ids)
    embeddings = scatter_features(embeddings, batch.input_ids, features, processor.image_token_id)
    packing = Packing.of(batch.bounds, embeddings.device)
    hidden_states = student_body(model, embeddings, batch.position_ids, packing)
    positions = label_positions(batch)
    return F.cross_entropy(model.lm_head(hidden_states[positions]), batch.input_ids[0, positions + 1])


def read_records(data: Path, numbers: dict[int, int]) -> Iterator[tuple[dict, int]]:
    """Yield training records and the row of their image."""
    for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        yield record, numbers[int(Path(record["image"]).stem)]


def render(processor: ModelProcessor, record: dict, size: tuple[int, int]) -> RenderedSample:
    """Render a record as training and use do."""
    human, gpt = (message["value"] for message in record["conversations"])
    turn = Turn(question=human, answer=gpt)
    image = ImageFile(name=record["image"], path=Path(record["image"]))
    sample = Sample(id=record["id"], images=(image,), turns=(turn,), source="easy_vqa")
    return processor.render(sample, [size])


def set_rate(optimizer: torch.optim.Optimizer, highest: float, step: int, num_steps: int) -> None:
    """Set the learning rate of a step: up over 50 steps, then down to a twentieth."""
    rate = highest * min(1.0, (step + 1) / 50) * (1.05 - step / num_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate


def main(
    out: Annotated[Path, typer.Option(help="Folder for teacher_hf and student_hf.")],
    role: Annotated[Literal["teacher", "student"], typer.Option(help="Which model to train.")],
    seed: Annotated[int, typer.Option(help="Draws weights, samples and batches.")] = 0,
) -> None:
    """Train one of the demo's models from scratch and score it on 500 held-out questions."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    budget = BUDGETS[role]
    data = out / f"data_{role}"
    prepare(data, num_train=budget.num_samples, num_heldout=500, seed=seed)
    folder = out / f"{role}_hf"
    lines = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()[:3000]
    texts = [message["value"] for line in lines for message in json.loads(line)["conversations"]]
    texts += ["user\n", "assistant\n", "system\nYou are a helpful assistant.", SENTENCE_REQUEST]
    {"teacher": write_teacher, "student": write_student}[role](folder, texts)
    processor = load_processor(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    print(f"{role}: {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    model.train()
    started = time.monotonic()
    train_vision(model, processor, budget.vision_steps)
    train_language(model, processor, data, budget)
    print(f"{role}: trained in {time.monotonic() - started:.0f} s", flush=True)
    model.save_pretrained(folder)
    heldout = BenchmarkFile.parse(str(data / "heldout.jsonl"), images_dir=data / "images")
    settings = EvaluationSettings(max_new_tokens=16, overwrite=True)
    scores = evaluate_model(folder, [heldout], out=out / f"evaluation_{role}", settings=settings)["heldout"]
    kinds = ", ".join(f"{kind} {100 * t.accuracy:.1f} %" for kind, t in scores.groups["form"].items())
    print(f"{role}: {100 * scores.all.accuracy:.1f} % of {scores.all.num} held-out questions right ({kinds})")


if __name__ == "__main__":
    typer.run(main)
