"""The door to an index: opened where it fits, built where there is none, refused where it does not fit."""

from collections.abc import Mapping
from pathlib import Path

from genrecal_mcore.config import DataConfig
from genrecal_mcore.data.index.build import ALONE, Builders, write_index
from genrecal_mcore.data.index.inputs import IndexInputs, difference, inputs_of
from genrecal_mcore.data.index.layout import MANIFEST_NAME, read_manifest
from genrecal_mcore.data.index.samples import SampleIndex, open_index
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.ranks import Ranks

Processors = Mapping[str, ModelProcessor | None]
"""Of `teacher` and `student`."""


def prepare_index(
    folder: Path,
    data: DataConfig,
    processors: Processors,
    *,
    may_replace: bool = False,
    builders: Builders = ALONE,
) -> SampleIndex:
    """Open the index of `data` in a folder; build it where there is none (collective).

    One that was built from other files, by other processors or under other settings is built again only where
    it may be replaced. Raises `ValueError` on all ranks, which says what differs and what to run: otherwise;
    for files that are damaged or not the same on all ranks; for too many broken samples.
    """
    inputs = _agreed_inputs(data, processors, builders.ranks)

    def is_usable() -> bool:
        if not _holds_something(folder):
            return False
        reason = _why_unfit(folder, inputs)
        if reason is not None and not may_replace:
            raise ValueError(
                f"{reason}; bring back what it was built from, or run genrecal data index CONFIG --overwrite"
            )
        return reason is None

    if not builders.ranks.broadcast_from_first(is_usable):
        _build(folder, inputs, data, processors, builders)
    return _opened(folder, data, inputs, builders.ranks)


def build_index(
    folder: Path, data: DataConfig, processors: Processors, *, builders: Builders = ALONE
) -> SampleIndex:
    """Build the index of `data` in a folder, in place of one that is there, and open it (collective).

    Raises as `prepare_index` does, and for a folder that holds something else.
    """
    inputs = _agreed_inputs(data, processors, builders.ranks)
    _build(folder, inputs, data, processors, builders)
    return _opened(folder, data, inputs, builders.ranks)


def _build(
    folder: Path, inputs: IndexInputs, data: DataConfig, processors: Processors, builders: Builders
) -> None:
    def check() -> None:
        if _holds_something(folder) and not (folder / MANIFEST_NAME).is_file():
            raise ValueError(
                f"{folder} holds something else than an index of data, so it is not removed; choose another "
                "data.index"
            )

    builders.ranks.broadcast_from_first(check)
    write_index(folder, inputs, data, processors, builders)


def _agreed_inputs(data: DataConfig, processors: Processors, ranks: Ranks) -> IndexInputs:
    """Return the inputs of this rank, once all ranks have found the same (collective)."""
    found: list[IndexInputs] = []
    ranks.do_and_wait_for_all(lambda: found.append(inputs_of(data, processors)))
    (own,) = found
    first = ranks.broadcast_from_first(lambda: own)

    def compare() -> None:
        reason = difference(first, own)
        if reason is not None:
            raise ValueError(
                f"data.sources: rank {ranks.rank} does not find what rank 0 does, which was {reason}; give "
                "every node the same files, with their times of change"
            )

    ranks.do_and_wait_for_all(compare)
    return own


def _opened(folder: Path, data: DataConfig, inputs: IndexInputs, ranks: Ranks) -> SampleIndex:
    found: list[SampleIndex] = []
    ranks.do_and_wait_for_all(lambda: found.append(open_index(folder, data, inputs)))
    return found[0]


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _why_unfit(folder: Path, inputs: IndexInputs) -> str | None:
    try:
        reason = difference(read_manifest(folder).inputs, inputs)
    except ValueError as error:
        return str(error)
    return f"the index {folder} was built {reason}" if reason else None
