"""Names samples by their content: what a teacher's features of a sample depend on, and nothing else.

Of an image it is the bytes that count, so that one which was replaced under its name is another
sample. A sample that only got another id or place in its file stays the same.
"""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np

from genrecal_mcore.data.images import content_digest
from genrecal_mcore.data.index import SampleIndex
from genrecal_mcore.data.types import Sample, SampleImage

Gather = Callable[[list[Any]], list[list[Any]]]
"""Gives every rank the lists of all ranks, in rank order."""
NUM_HEX_DIGITS = 32
IMAGES_REMEMBERED = 1024


def sample_keys(
    index: SampleIndex, *, rank: int = 0, world_size: int = 1, gather: Gather | None = None
) -> np.ndarray:
    """Return the key of each sample, `[num_samples]` of 32 ASCII digits (collective with `gather`).

    Reads every image; each rank takes a stretch of the samples, as neighbours often share one. Raises
    `ValueError` naming sample and file when an image cannot be read.
    """
    start, end = (len(index) * part // world_size for part in (rank, rank + 1))
    digest_of = lru_cache(maxsize=IMAGES_REMEMBERED)(content_digest)
    share = [sample_key(index[number], digest_of) for number in range(start, end)]
    shares = gather(share) if gather is not None else [share]
    return np.array([key for part in shares for key in part], dtype=f"S{NUM_HEX_DIGITS}")


def sample_key(sample: Sample, digest_of: Callable[[SampleImage], str]) -> str:
    """Return a digest of a sample's text and images, given that of an image."""
    try:
        images = tuple(digest_of(image) for image in sample.images)
    except OSError as error:
        raise ValueError(f"sample {sample.id}: an image cannot be read ({error}); bring it back") from None
    turns = tuple((turn.question, turn.answer) for turn in sample.turns)
    return sha256(repr((turns, images)).encode()).hexdigest()[:NUM_HEX_DIGITS]
