"""What a run's feature cache takes on disk, and whether one that it reads serves it."""

from pathlib import Path
from tempfile import TemporaryDirectory

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import SampleIndex, is_here, load_processors, prepare_index, sample_keys
from genrecal_mcore.feature_cache import read_contents
from genrecal_mcore.observability import size_text
from genrecal_mcore.training.cache_need import CacheNeed
from genrecal_mcore.training.cache_setup import open_cache, record_of


def cache_lines(config: RunConfig) -> list[str]:
    """Say what the cache that a run names takes, from the token counts of its data; nothing without one.

    Looks at every sample, as training does. Raises `ValueError` for a cache to read that lacks samples, in
    the words of `train`.
    """
    folder = named_cache(config)
    if folder is None:
        return []
    absent = [source.path for source in config.data.sources if not is_here(source)]
    if absent:
        row = size_text(record_of(config).row_bytes)
        return [f"{absent[0]} is not here: samples were not counted. A row of a feature cache takes {row}."]
    with TemporaryDirectory() as made:
        # A plan leaves no run folder behind.
        index_dir = config.data.index or Path(made) / "index"
        index = prepare_index(index_dir, config.data, load_processors(config))
        return [need_line(config, folder, index)]


def need_line(config: RunConfig, folder: Path, index: SampleIndex) -> str:
    """Return the line of `CacheNeed`; raises `ValueError` for a cache to read that lacks samples."""
    keys = sample_keys(index)
    assert config.teacher is not None
    if config.teacher.read_cache is not None:
        open_cache(folder, index, keys)
        return f"The feature cache {folder} holds each of the {len(index)} samples."
    is_missing = read_contents(folder).shards_of(keys) < 0
    need = CacheNeed.of(folder, index, record_of(config), keys=keys, is_missing=is_missing)
    said = need.describe()
    return f"{said[0].upper()}{said[1:]}."


def named_cache(config: RunConfig) -> Path | None:
    """Return the cache that a run reads or fills."""
    teacher = config.teacher
    return None if teacher is None else teacher.read_cache or teacher.write_cache
