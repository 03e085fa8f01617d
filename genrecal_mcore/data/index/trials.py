"""Samples that are checked one by one where no index is needed: a few of the first, or a few at random."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, islice

import numpy as np

from genrecal_mcore.config import DataConfig
from genrecal_mcore.data.index.check import check_record
from genrecal_mcore.data.index.layout import SkippedSample
from genrecal_mcore.data.index.samples import SampleFacts
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.sources import Record, files_of, records_of, scan_file
from genrecal_mcore.data.types import Sample

CheckedPair = tuple[Sample, SampleFacts]


def first_samples(
    data: DataConfig, processors: Mapping[str, ModelProcessor | None], *, num_records: int
) -> list[CheckedPair]:
    """Check the first records of the data alone; broken ones are left out."""
    records = (record for source in data.sources for record in records_of(source))
    return list(_whole(islice(records, num_records), data, processors))


def draw_samples(
    data: DataConfig, processors: Mapping[str, ModelProcessor | None], *, num_samples: int
) -> list[CheckedPair]:
    """Check records of all sources in a fixed random order until `num_samples` are whole.

    Raises `ValueError` when there are not as many.
    """
    drawn = list(islice(_whole(_shuffled_records(data), data, processors), num_samples))
    if len(drawn) < num_samples:
        raise ValueError(
            f"{num_samples} samples were asked for, but the data has {len(drawn)} whole ones; ask for fewer "
            "or name other data"
        )
    return drawn


def _whole(
    records: Iterable[Record], data: DataConfig, processors: Mapping[str, ModelProcessor | None]
) -> Iterator[CheckedPair]:
    for record in records:
        found = check_record(record, data, processors)
        if not isinstance(found, SkippedSample):
            yield found.sample, found.facts


def _shuffled_records(data: DataConfig) -> Iterator[Record]:
    files = [(source, file) for source in data.sources for file in files_of(source)]
    scans = [scan_file(file) for _, file in files]
    bounds = [0, *accumulate(map(len, scans))]
    for number in np.random.Generator(np.random.PCG64(0)).permutation(bounds[-1]).tolist():
        of_file = int(np.searchsorted(bounds, number, side="right")) - 1
        source, file = files[of_file]
        first, second, own_number = scans[of_file][number - bounds[of_file]].tolist()
        yield Record(source=source, file=file, place=(first, second), number=own_number)
