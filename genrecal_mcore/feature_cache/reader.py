"""Reads the rows of a run's samples out of a feature cache, in any order."""

from functools import lru_cache

import numpy as np
import torch

from genrecal_mcore.feature_cache.contents import CacheContents
from genrecal_mcore.feature_cache.shards import Shard

OPEN_SHARDS = 64
"""Most files that are open at once: each keeps its header in memory, and a cache may have thousands."""


class FeatureReader:
    """Finds samples by their number in a run's data. For one thread."""

    def __init__(self, contents: CacheContents, keys: np.ndarray) -> None:
        """`keys` `[num_samples]` are the keys of a run's samples, by number."""
        self.keys = keys
        self.paths = contents.paths
        self.shards = contents.shards_of(keys)
        self._open = lru_cache(maxsize=OPEN_SHARDS)(Shard)

    @property
    def missing(self) -> np.ndarray:
        """Return the numbers of the samples that the cache lacks."""
        return np.flatnonzero(self.shards < 0)

    def read(self, number: int) -> torch.Tensor:
        """Return the rows `[n, h]` of a sample that is not missing, mapped from the file.

        Raises `RuntimeError` naming the file when they are not as they were written.
        """
        return self._open(self.paths[self.shards[number]]).read(self.keys[number].decode())
