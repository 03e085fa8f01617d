"""A conversion cut into pieces: files written on their own, by several processes if asked, and finished once.

A piece that is finished has a marker beside the files, so that an interrupted conversion goes on behind it.
"""

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path

import torch

from checkpoint_tools.engine import ConversionPlan, Merger, merged_shape, plan_conversion
from checkpoint_tools.streaming import (
    Advance,
    Read,
    StoredTensor,
    TensorSpec,
    cut_into_pieces,
    reading_ahead,
    write_language_piece,
    write_safetensors,
)
from checkpoint_tools.workspace import MARKERS
from genrecal_mcore.layouts import open_checkpoint

PIECE_BYTES = 512 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Tensors that one file of the teacher folder holds."""

    part: str
    """`language`, `vision` or `head`."""
    number: int
    specs: tuple[TensorSpec, ...]

    @property
    def name(self) -> str:
        """Name of its marker."""
        return f"{self.part}_{self.number}"

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(spec.num_bytes for spec in self.specs)


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenPiece:
    """A piece whose file is complete, though the disk may not have all of it yet."""

    piece: Piece
    file: str
    """Path relative to the teacher folder."""
    stored: tuple[StoredTensor, ...]
    """Of a language piece: where each tensor lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedPiece:
    """What is known of a piece that need not be written again."""

    file: str
    """Path relative to the teacher folder."""
    size: int
    sha256: str
    stored: tuple[StoredTensor, ...] = ()
    """Of a language piece: where each tensor lies."""


def pieces_of(plan: ConversionPlan, dtype: torch.dtype) -> list[Piece]:
    """Return every piece of a conversion, in the order in which they are written."""
    checkpoint = plan.checkpoint
    language = [
        TensorSpec(name=entry.mcore, shape=merged_shape(entry, plan), dtype=dtype) for entry in plan.entries
    ]
    vision = tuple(
        TensorSpec(name=key.removeprefix("model."), shape=checkpoint.shape(key), dtype=dtype)
        for key in plan.vision
    )
    head = TensorSpec(name="weight", shape=checkpoint.shape(plan.head), dtype=dtype)
    return [
        *(
            Piece(part="language", number=number, specs=specs)
            for number, specs in enumerate(cut_into_pieces(language, max_bytes=PIECE_BYTES))
        ),
        Piece(part="vision", number=0, specs=vision),
        Piece(part="head", number=0, specs=(head,)),
    ]


def write_piece(merger: Merger, folder: Path, piece: Piece, advance: Advance) -> WrittenPiece:
    """Write the file of one piece; until `finish_piece` has seen it, it counts as not written."""
    stored: list[StoredTensor] = []
    file = Path(piece.part) / "model.safetensors"
    try:
        with reading_ahead(_reader(merger, piece), [spec.name for spec in piece.specs]) as read:
            if piece.part == "language":
                stored = write_language_piece(folder / "language", piece.number, piece.specs, read, advance)
                file = Path("language") / stored[0].file
            else:
                write_safetensors(folder / file, piece.specs, read, advance)
    except (OSError, RuntimeError) as error:
        cause = _behind(error)
        if not isinstance(cause, OSError):
            raise cause from None
        raise ValueError(
            f"{folder / piece.part}: the {piece.num_bytes} bytes from tensor {piece.specs[0].name} on cannot "
            f"be written ({cause}); make room on the disk or choose another --out"
        ) from error
    return WrittenPiece(piece=piece, file=str(file), stored=tuple(stored))


def _behind(error: BaseException) -> BaseException:
    """Return what stopped a write: torch's file writer raises a `RuntimeError` of its own on the way out."""
    while isinstance(error, RuntimeError) and error.__context__ is not None:
        error = error.__context__
    return error


def _reader(merger: Merger, piece: Piece) -> Read:
    """Return the function that gives a piece's tensors by the names they will have."""
    plan = merger.plan
    if piece.part == "language":
        return merger.read
    merger.forget()
    if piece.part == "vision":
        return lambda name: plan.checkpoint.read(f"model.{name}")
    return lambda _: plan.checkpoint.read(plan.head)


def finish_piece(folder: Path, written: WrittenPiece) -> FinishedPiece:
    """Wait until the disk has a piece, take its digest and write its marker."""
    path = folder / written.file
    with path.open("rb+") as file:
        sha256 = file_digest(file, "sha256").hexdigest()  # the kernel writes meanwhile
        os.fsync(file.fileno())
        # Its pages serve the next piece, instead of pushing everything else out of memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    finished = FinishedPiece(
        file=written.file, size=path.stat().st_size, sha256=sha256, stored=written.stored
    )
    _write_atomically(folder / MARKERS / f"{written.piece.name}.json", json.dumps(asdict(finished)))
    return finished


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def finished_piece(folder: Path, piece: Piece) -> FinishedPiece | None:
    """Return what is known of a piece whose marker and whole file are there, or None."""
    marker = folder / MARKERS / f"{piece.name}.json"
    if not marker.is_file():
        return None
    fields = json.loads(marker.read_text(encoding="utf-8"))
    fields["stored"] = tuple(StoredTensor(**tensor) for tensor in fields["stored"])
    finished = FinishedPiece(**fields)
    file = folder / finished.file
    return finished if file.is_file() and file.stat().st_size == finished.size else None


def write_pieces(
    plan: ConversionPlan, folder: Path, pieces: Sequence[Piece], *, jobs: int, advance: Advance
) -> Iterator[tuple[Piece, FinishedPiece]]:
    """Write pieces, `jobs` at a time, and yield each when it is finished.

    Raises what the first piece that failed raised; the others that were begun are finished before.
    """
    if jobs == 1 or len(pieces) < 2:
        yield from _write_one_by_one(plan, folder, pieces, advance)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["checkpoint_tools.pieces", "genrecal_mcore.native"])
    with ProcessPoolExecutor(
        max_workers=jobs,
        mp_context=context,
        initializer=_open_source,
        initargs=(plan.checkpoint.folder.path,),
    ) as executor:
        future_of = {executor.submit(_write_in_worker, folder, piece): piece for piece in pieces}
        try:
            for future in as_completed(future_of):
                piece = future_of[future]
                finished = future.result()
                advance(piece.num_bytes)
                yield piece, finished
        finally:
            executor.shutdown(cancel_futures=True)


def _write_one_by_one(
    plan: ConversionPlan, folder: Path, pieces: Sequence[Piece], advance: Advance
) -> Iterator[tuple[Piece, FinishedPiece]]:
    """Write a piece while a thread finishes the one before: the disk has always something to do."""
    merger = Merger(plan)
    finishing: list[Future[FinishedPiece]] = []
    with ThreadPoolExecutor(max_workers=1) as thread:
        try:
            for number, piece in enumerate(pieces):
                written = write_piece(merger, folder, piece, advance)
                finishing.append(thread.submit(finish_piece, folder, written))
                if number > 0:
                    yield pieces[number - 1], finishing[number - 1].result()
        except BaseException:
            wait(finishing)
            raise
        if pieces:
            yield pieces[-1], finishing[-1].result()


_merger_of_worker: list[Merger] = []
"""That of this worker process; made once, as it cannot be sent."""


def _open_source(source: Path) -> None:
    torch.set_num_threads(1)
    _merger_of_worker.append(Merger(plan_conversion(open_checkpoint(source))))


def _write_in_worker(folder: Path, piece: Piece) -> FinishedPiece:
    return finish_piece(folder, write_piece(_merger_of_worker[0], folder, piece, lambda _: None))
