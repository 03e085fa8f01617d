"""Writes JSONL sources of any size and their index, without the checks that the index stands for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genrecal_mcore.config import DataConfig, DataSource
from genrecal_mcore.data.index.inputs import inputs_of
from genrecal_mcore.data.index.layout import COLUMNS, MANIFEST_NAME, SKIPPED_NAME, IndexManifest

LINE = (
    '{{"id": "{:010d}", "image": "{:010d}.jpg", "conversations": ['
    '{{"from": "human", "value": "<image>\\nWhat is shown in the picture?"}}, '
    '{{"from": "gpt", "value": "A red circle, and below it a smaller blue rectangle."}}]}}\n'
)
"""As long for every number, so that places need no scan."""
CHUNK = 100_000
MEAN_TOKENS, MOST_TOKENS = 700, 4096
NO_MODELS = {"teacher": None, "student": None}


def write_synthetic_index(
    folder: Path, sizes: Sequence[int], *, weights: Sequence[float] | None = None
) -> DataConfig:
    """Write `folder/source_0.jsonl` and so on with so many records each, and `folder/index`.

    Every sample has one image of 640 x 480, and lengths as random ones are. Returns what opens it, with the
    models `NO_MODELS`.
    """
    sources = tuple(
        DataSource(
            path=folder / f"source_{number}.jsonl",
            images=folder,
            domain=f"domain {number}",
            weight=None if weights is None else weights[number],
        )
        for number in range(len(sizes))
    )
    for source, size in zip(sources, sizes, strict=True):
        with source.path.open("w", encoding="ascii") as file:
            for start in range(0, size, CHUNK):
                file.writelines(LINE.format(n, n) for n in range(start, min(start + CHUNK, size)))
    data = DataConfig(sources=sources, index=folder / "index")
    _write_index(folder / "index", data, sizes)
    return data


def _write_index(folder: Path, data: DataConfig, sizes: Sequence[int]) -> None:
    folder.mkdir()
    for name, column in _columns(sizes).items():
        np.save(folder / f"{name}.npy", column.astype(COLUMNS[name].dtype, copy=False))
    (folder / SKIPPED_NAME).touch()
    manifest = IndexManifest(
        inputs=inputs_of(data, NO_MODELS),
        num_samples=tuple(sizes),
        num_skipped=(0,) * len(sizes),
        domains=tuple(f"domain {number}" for number in range(len(sizes))),
        digest="synthetic",
    )
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(), encoding="utf-8")


def _columns(sizes: Sequence[int]) -> dict[str, np.ndarray]:
    total, line_bytes = sum(sizes), len(LINE.format(0, 0))
    random = np.random.default_rng(0)
    file = np.repeat(np.arange(len(sizes)), sizes)
    record = np.concatenate([np.arange(size) for size in sizes])
    tokens = np.clip(random.exponential(MEAN_TOKENS, total), 32, MOST_TOKENS).astype(np.int32)
    return {
        "places": np.stack([file, record * line_bytes, np.full(total, line_bytes), record + 1], axis=1),
        "tokens": tokens,
        "counts": np.stack([tokens, tokens // 4, tokens, tokens // 4, np.ones_like(tokens)], axis=1),
        "shared_tokens": np.zeros(total, dtype=np.uint8),
        "domains": file,
        "digests": random.integers(0, 256, (total, 16), dtype=np.uint8),
        "first_image": np.arange(total + 1),
        "image_sizes": np.tile(np.array([640, 480], dtype=np.int32), (total, 1)),
    }
