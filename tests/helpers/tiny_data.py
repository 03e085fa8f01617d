"""Writes a small LLaVA-format dataset with real PNG images: several image sizes, turns and answer lengths."""

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

IMAGE_SIZES = ((48, 24), (30, 50), (24, 24), (64, 40), (20, 33))
COLORS = ("red", "green", "blue", "yellow", "gray")
SHAPES = ("circle", "rectangle")
DATA_NAME = "data.jsonl"
IMAGES_NAME = "images"


def make_tiny_dataset(folder: Path, num_samples: int, seed: int) -> Path:
    """Write `folder/data.jsonl` and `folder/images/`; return the path of the JSONL file."""
    rng = random.Random(seed)
    (folder / IMAGES_NAME).mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_record(folder, index, rng)) for index in range(num_samples)]
    path = folder / DATA_NAME
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _record(folder: Path, index: int, rng: random.Random) -> dict[str, object]:
    num_images = {2: 0, 3: 2}.get(index % 6, 1)
    shapes = [(rng.choice(COLORS), rng.choice(SHAPES)) for _ in range(max(1, num_images))]
    names = [_draw(folder, f"{index:03d}_{i}.png", shapes[i], rng) for i in range(num_images)]
    record: dict[str, object] = {
        "id": f"sample-{index:03d}",
        "conversations": _conversations(shapes, num_images=num_images, num_turns=1 + index % 2, rng=rng),
        "domain": SHAPES[index % 2],
    }
    if num_images:
        record["image"] = names[0] if num_images == 1 else names
    return record


def _draw(folder: Path, name: str, shape: tuple[str, str], rng: random.Random) -> str:
    width, height = rng.choice(IMAGE_SIZES)
    image = Image.new("RGB", (width, height), color=(rng.randrange(40), rng.randrange(40), rng.randrange(40)))
    box = (3, 3, width - rng.randint(4, 8), height - rng.randint(4, 8))
    draw = ImageDraw.Draw(image)
    color, outline = shape
    if outline == "circle":
        draw.ellipse(box, fill=color)
    else:
        draw.rectangle(box, fill=color)
    image.save(folder / IMAGES_NAME / name)
    return name


def _conversations(
    shapes: list[tuple[str, str]], *, num_images: int, num_turns: int, rng: random.Random
) -> list[dict[str, str]]:
    color, shape = shapes[0]
    asked = rng.choice(COLORS)
    turns = [
        (f"What shape is shown? Not {asked}.", rng.choice((shape, f"It is a {color} {shape}."))),
        (f"Is it {asked}?", "yes" if asked == color else f"no, the {shape} is {color}"),
        ("How many images?", str(num_images)),
    ]
    rng.shuffle(turns)
    messages = []
    for question, answer in turns[:num_turns]:
        placeholders = "<image>\n" * num_images if not messages else ""
        messages.append({"from": "human", "value": placeholders + question})
        messages.append({"from": "gpt", "value": answer})
    return messages
