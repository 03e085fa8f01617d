"""Says which samples a feature cache holds, and in which shards, from the headers of its files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrecal_mcore.feature_cache.shards import shard_keys, shard_paths

KEY_TYPE = np.dtype("S32")
"""A sample's key: 32 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheContents:
    """The samples of a cache at one time; what is damaged counts as missing."""

    paths: tuple[Path, ...]
    keys: np.ndarray
    """`[m]` of `KEY_TYPE`, sorted, each once."""
    shards: np.ndarray
    """`[m]`: which of `paths` holds each key."""
    damages: tuple[str, ...]
    """What is wrong with the shards that were left out, each with its file."""

    def shards_of(self, keys: np.ndarray) -> np.ndarray:
        """Return for each of `keys` `[n]` which of `paths` holds it, -1 where none does."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int32)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[places] == keys, self.shards[places], -1).astype(np.int32)


def read_contents(folder: Path) -> CacheContents:
    """Read the headers of a cache's shards; damaged ones are told apart, not raised."""
    paths: list[Path] = []
    keys: list[np.ndarray] = []
    damages: list[str] = []
    for path in shard_paths(folder):
        try:
            found = shard_keys(path)
        except ValueError as error:
            damages.append(str(error))
            continue
        paths.append(path)
        keys.append(np.array(found, dtype=KEY_TYPE))
    shards = np.repeat(np.arange(len(paths), dtype=np.int32), [len(part) for part in keys])
    every, first = np.unique(np.concatenate([*keys, np.empty(0, KEY_TYPE)]), return_index=True)
    return CacheContents(paths=tuple(paths), keys=every, shards=shards[first], damages=tuple(damages))
