"""Opens an index as large as the paper's data, reads samples anywhere in it, and orders them.

Example: python -m benchmarks.data_index --rounds 5
"""

import multiprocessing
import re
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.results import Benchmark, Target, show
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.config import DataConfig
from genrecal_mcore.data import (
    BatchShape,
    SampleIndex,
    SampleOrder,
    prepare_index,
    source_shares,
    units_of_step,
)
from tests.helpers.synthetic_index import NO_MODELS, write_synthetic_index

NUM_SAMPLES = 9_000_000
PARTS, WEIGHTS = (0.6, 0.37, 0.03), (1, 2, 4)
"""Of each source: its part of the samples, and its weight."""
BATCH = BatchShape(micro_batch_size=4, accumulation_steps=16, student_dp=256)
"""The paper's, section 4.1(c)."""
WINDOW = 4 * BATCH.samples_per_step
NUM_READS, NUM_DRAWN = 2000, 1_000_000
MOST_OPEN_S, MOST_OPEN_MB, MOST_READ_MS, MOST_SHARE_OFF = 2.0, 300.0, 1.0, 0.1
OPEN_S, OPEN_MB = "opening the index, s", "memory of opening it, MB"
READ_MS, UNIT_MS = "reading a sample, ms", "dealing a later step out, ms"
FIRST_S, ALL_MB = "the first step's units, s", "memory of its own with the order, MB"
MIXED_S, OFF = "the first step's units by weight, s", "largest share off by, %"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Processes that open it; medians are shown.")] = 5,
    samples: Annotated[int, typer.Option(min=1000, help="Samples of the index.")] = NUM_SAMPLES,
) -> None:
    """Print what opening, reading and ordering take; writes 300 bytes a sample to a temporary folder."""
    show(measure(rounds=rounds, samples=samples), table_console())


def measure(*, rounds: int, samples: int = NUM_SAMPLES) -> Benchmark:
    """Open one index in `rounds` processes, one after another."""
    sizes = [int(samples * part) for part in PARTS]
    with tempfile.TemporaryDirectory() as folder:
        data = write_synthetic_index(Path(folder), sizes, weights=WEIGHTS)
        found = [in_a_process(data, seed=number) for number in range(rounds)]
    medians = {name: statistics.median(values[name] for values in found) for name in found[0]}
    limits = {OPEN_S: MOST_OPEN_S, OPEN_MB: MOST_OPEN_MB, READ_MS: MOST_READ_MS, OFF: MOST_SHARE_OFF}
    return Benchmark(
        title="An index as large as the paper's data",
        command=f"python -m benchmarks.data_index --rounds {rounds}",
        about=(
            f"{sum(sizes)} samples in {len(sizes)} JSONL files, in the page cache; medians of {rounds} "
            f"processes, reads over {NUM_READS} places each, steps of {BATCH.samples_per_step} samples in "
            f"windows of {WINDOW}, shares over {NUM_DRAWN} draws."
        ),
        header=("what", "median", "worst"),
        rows=[
            (name, f"{median:.3g}", f"{max(values[name] for values in found):.3g}")
            for name, median in medians.items()
        ],
        targets=[
            Target(
                name=name.rpartition(",")[0],
                measured=medians[name],
                sense="at most",
                limit=limit,
                unit=name.rpartition(", ")[2],
            )
            for name, limit in limits.items()
        ],
    )


def in_a_process(data: DataConfig, *, seed: int) -> dict[str, float]:
    """Return what a fresh process measures."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measured, data, seed).result()


def measured(data: DataConfig, seed: int) -> dict[str, float]:
    """Open, read and order in this process."""
    assert data.index is not None
    own_memory, memory, started = memory_mb("RssAnon"), memory_mb("VmRSS"), time.perf_counter()
    index = prepare_index(data.index, data, NO_MODELS)
    found = {OPEN_S: time.perf_counter() - started, OPEN_MB: memory_mb("VmHWM") - memory}
    found[READ_MS] = 1e3 * statistics.median(seconds_of_reads(index, seed))

    started = time.perf_counter()
    order = SampleOrder(index.tokens, seed, index.digest, WINDOW)
    units_of_step(order, step=0, batch=BATCH)
    found[FIRST_S] = time.perf_counter() - started
    started = time.perf_counter()
    units_of_step(order, step=1, batch=BATCH)
    found[UNIT_MS] = 1e3 * (time.perf_counter() - started)
    found[ALL_MB] = memory_mb("RssAnon") - own_memory

    started = time.perf_counter()
    mixed = SampleOrder(index.tokens, seed, index.digest, WINDOW, source_shares(data, index))
    units_of_step(mixed, step=0, batch=BATCH)
    found[MIXED_S] = time.perf_counter() - started
    return found | {OFF: 100 * largest_error(mixed, index)}


def memory_mb(name: str) -> float:
    """Return a line of this process's memory: `VmRSS` is what it holds, `VmHWM` the most it held,
    `RssAnon` what it holds beside files that are mapped.
    """
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def seconds_of_reads(index: SampleIndex, seed: int) -> list[float]:
    """Return how long each of many reads took, spread over the whole index."""
    times = []
    for number in np.random.default_rng(seed).integers(0, len(index), NUM_READS).tolist():
        started = time.perf_counter()
        index[number]
        index.facts(number)
        times.append(time.perf_counter() - started)
    return times


def largest_error(order: SampleOrder, index: SampleIndex) -> float:
    """Return how far the share of a source is off what its weight asks for."""
    batch = BatchShape(micro_batch_size=NUM_DRAWN, accumulation_steps=1, student_dp=1)
    ends = [index.samples_of_source(number).stop for number in range(len(WEIGHTS))]
    sources = np.searchsorted(ends, order.samples_of_step(0, batch), side="right")
    shares = np.bincount(sources, minlength=len(WEIGHTS)) / NUM_DRAWN
    return float(np.abs(shares - np.array(WEIGHTS) / sum(WEIGHTS)).max())


if __name__ == "__main__":
    typer.run(main)
