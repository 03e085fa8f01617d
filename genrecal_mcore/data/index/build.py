"""Builds an index: every file is scanned for its records, every record is checked, all is put together.

The work is shared out to ranks, and to processes of each. They meet in the index's workshop and tell each
other nothing but what is still to be done.
"""

import multiprocessing
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from genrecal_mcore.config import DataConfig
from genrecal_mcore.data.index.inputs import IndexInputs
from genrecal_mcore.data.index.layout import COUNTS, MANIFEST_NAME, SKIPPED_NAME, IndexManifest
from genrecal_mcore.data.index.pieces import Checks, Pieces, Scans
from genrecal_mcore.data.index.workshop import Workshop
from genrecal_mcore.data.processor import ModelProcessor
from genrecal_mcore.data.ranks import Ranks

Task = Callable[[int], int]
"""Does one number of the work and returns how many records that was."""


class Counter(Protocol):
    """Counts what is done."""

    def advance(self, count: int = 1) -> None:
        """Count so many more."""


class _Uncounted:
    def advance(self, count: int = 1) -> None:
        del count


def uncounted(total: int) -> AbstractContextManager[Counter]:
    """Return what counts nothing."""
    del total
    return nullcontext(_Uncounted())


@dataclass(frozen=True, kw_only=True, slots=True)
class Builders:
    """Who builds an index."""

    ranks: Ranks = Ranks()
    jobs: int = 1
    """Processes of each rank; with one it does its share itself."""
    progress: Callable[[int], AbstractContextManager[Counter]] = uncounted
    """Given the records of this rank's share, gives what counts those that are checked."""


ALONE = Builders()
"""This process."""


def write_index(
    folder: Path,
    inputs: IndexInputs,
    data: DataConfig,
    processors: Mapping[str, ModelProcessor | None],
    builders: Builders,
) -> None:
    """Write the index of `data` to `folder`, in place of what is there (collective).

    `inputs` are the same on all ranks. A build that was interrupted goes on. Raises `ValueError` on all ranks
    for a file that is damaged, and when there is no record at all.
    """
    ranks = builders.ranks
    workshop = Workshop(folder=folder.with_name(f".partial_{folder.name}"))
    scans = Scans(workshop=workshop, inputs=inputs)

    def begin() -> list[int]:
        workshop.begin(inputs)
        return workshop.missing_scans(len(inputs.files))

    def plan() -> tuple[Pieces, list[int]]:
        pieces = scans.pieces()
        return pieces, workshop.missing_parts(len(pieces))

    share = ranks.share(ranks.broadcast_from_first(begin))
    ranks.do_and_wait_for_all(lambda: _do(scans.scan, share, builders.jobs, _Uncounted()))
    pieces, missing = ranks.broadcast_from_first(plan)
    share = ranks.share(missing)
    checks = Checks(workshop=workshop, inputs=inputs, pieces=pieces, data=data, processors=processors)
    with builders.progress(sum(len(pieces[number]) for number in share)) as counter:
        ranks.do_and_wait_for_all(lambda: _do(checks.check, share, builders.jobs, counter))
    ranks.broadcast_from_first(lambda: _put_together(folder, workshop, inputs, num_parts=len(pieces)))


def _do(task: Task, numbers: Sequence[int], jobs: int, counter: Counter) -> None:
    if jobs == 1 or len(numbers) < 2:
        for number in numbers:
            counter.advance(task(number))
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["genrecal_mcore.data.index.build"])
    with ProcessPoolExecutor(
        max_workers=min(jobs, len(numbers)), mp_context=context, initializer=_begin_work, initargs=(task,)
    ) as executor:
        try:
            for future in as_completed([executor.submit(_do_in_worker, number) for number in numbers]):
                counter.advance(future.result())
        finally:
            executor.shutdown(cancel_futures=True)


_task_of_worker: list[Task] = []
"""That of this worker process: processors are loaded once, not with each number."""


def _begin_work(task: Task) -> None:
    torch.set_num_threads(1)
    _task_of_worker.append(task)


def _do_in_worker(number: int) -> int:
    return _task_of_worker[0](number)


def _put_together(folder: Path, workshop: Workshop, inputs: IndexInputs, *, num_parts: int) -> None:
    """Write the columns one by one, then the description, and move all to its place."""
    made = workshop.folder / "index"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()

    def joined(name: str) -> np.ndarray:
        return np.concatenate(workshop.read_parts(name, num_parts))

    def save(name: str, column: np.ndarray) -> None:
        np.save(made / f"{name}.npy", column, allow_pickle=False)

    places = joined("places")
    save("places", places)
    sources = np.array(inputs.source_of_file)[places[:, 0]]
    save("image_sizes", joined("image_sizes"))
    counts, digests = joined("counts"), joined("digests")
    save("counts", counts)
    teacher, student = (counts[:, COUNTS.index(f"{role}_tokens")] for role in ("teacher", "student"))
    save("tokens", np.maximum(teacher, student))
    save("shared_tokens", joined("shared_tokens"))
    save("digests", digests)
    save("first_image", np.concatenate([[0], joined("num_images")]).cumsum())
    domains, names = _numbered_domains(workshop, num_parts)
    save("domains", domains)
    (made / SKIPPED_NAME).write_bytes(joined("skipped_lines").tobytes())
    manifest = IndexManifest(
        inputs=inputs,
        num_samples=_counted(sources, len(inputs.sources)),
        num_skipped=_counted(joined("skipped_sources"), len(inputs.sources)),
        domains=names,
        digest=_digest(digests, inputs),
    )
    (made / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)
    workshop.remove()


def _counted(numbers: np.ndarray, length: int) -> tuple[int, ...]:
    return tuple(np.bincount(numbers, minlength=length).tolist())


def _numbered_domains(workshop: Workshop, num_parts: int) -> tuple[np.ndarray, tuple[str | None, ...]]:
    """Return each sample's domain as a number in the list of names, which are in the order of the samples."""
    numbers: dict[str, int] = {}
    columns = []
    names_of_parts, domains_of_parts = (
        workshop.read_parts(name, num_parts) for name in ("domain_names", "domains")
    )
    for names, domains in zip(names_of_parts, domains_of_parts, strict=True):
        number_of = [numbers.setdefault(str(name), len(numbers)) for name in names]
        columns.append(np.array(number_of, dtype=np.int32)[domains])
    return np.concatenate(columns), tuple(name or None for name in numbers)


def _digest(digests: np.ndarray, inputs: IndexInputs) -> str:
    digest = sha256(digests.tobytes())
    for role in sorted(inputs.processors):
        digest.update(f"{role}:{inputs.processors[role] or ''}".encode())
    return digest.hexdigest()
