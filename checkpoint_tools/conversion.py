"""The two conversions as functions: a Hugging Face folder to a teacher folder, and back, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from checkpoint_tools.engine import ConversionPlan, OnMeta, Source, TeacherTensors, plan_conversion
from checkpoint_tools.mcore_folder import LanguageReader, write_manifest, write_megatron_metadata
from checkpoint_tools.pieces import (
    FinishedPiece,
    Piece,
    finished_piece,
    pieces_of,
    write_pieces,
)
from checkpoint_tools.streaming import (
    Advance,
    TensorSpec,
    cut_into_pieces,
    finish_language,
    write_safetensors,
)
from checkpoint_tools.workspace import MARKERS, PLAN_NAME, check_free_space, replacing
from genrecal_mcore.config import TeacherManifest, validate_teacher_folder
from genrecal_mcore.layouts import (
    Checkpoint,
    HfFolder,
    layout_named,
    open_checkpoint,
    published_tensors,
    read_json_object,
    tensor_names,
)

DTYPES = ("float32", "bfloat16", "float16")
WEIGHT_NAMES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth")
PIECES_VERSION = 1
"""Raised when the same source would be cut or written otherwise."""
SHARD_BYTES = 5 * 10**9

Progress = Callable[[int], Advance]
"""Called once with the bytes to write; what it returns is called with the bytes of each tensor written."""


def no_progress(total_bytes: int) -> Advance:
    """Show nothing."""
    del total_bytes
    return lambda _: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to convert."""

    dtype: str | None = None
    """Name of a torch dtype, or None for the source's."""
    tp: int = 1
    """Tensor-parallel size that the teacher must load at; it loads at any other that divides its sizes."""
    pp: int = 1
    """Pipeline-parallel size likewise."""
    verify: bool = False
    """Convert back and compare every tensor bit by bit; let every rank of tp x pp look for its parts."""
    jobs: int = 1
    """Processes that write."""
    overwrite: bool = False
    resume: bool = False
    """Go on from the pieces that an interrupted call with the same options has finished."""


def convert_to_mcore(
    source: Path, out: Path, options: Options = Options(), *, progress: Progress = no_progress
) -> None:
    """Convert a Hugging Face VLM of any known layout into a teacher folder, one tensor in memory at a time.

    Raises `ValueError` for anything wrong with the source or the target; `out` is then as it was.
    """
    with replacing(out, source=source, overwrite=options.overwrite) as workspace:
        checkpoint = open_checkpoint(source)
        plan = plan_conversion(checkpoint)
        plan.spec.check_divisible(tp=options.tp, pp=options.pp, options="--")
        dtype = getattr(torch, options.dtype) if options.dtype else stored_dtype(checkpoint)
        pieces = pieces_of(plan, dtype)
        identity = _identity(checkpoint, dtype)
        if options.resume:
            folder = workspace.go_on(identity)
        else:
            folder = workspace.begin()
            (folder / PLAN_NAME).write_text(json.dumps(identity), encoding="utf-8")
        finished = {piece: done for piece in pieces if (done := finished_piece(folder, piece))}
        missing = [piece for piece in pieces if piece not in finished]
        check_free_space(out, sum(piece.num_bytes for piece in missing))
        advance = progress(sum(piece.num_bytes for piece in pieces))
        advance(sum(piece.num_bytes for piece in finished))
        for piece, done in write_pieces(plan, folder, missing, jobs=options.jobs, advance=advance):
            finished[piece] = done
        _finish(plan, folder, pieces, finished)
        if options.verify:
            verify_round_trip(plan, folder, dtype)
            from checkpoint_tools.loadable import check_loads_at  # megatron-core takes a second to import

            check_loads_at(plan.spec, folder / "language", tp=options.tp, pp=options.pp)
        manifest = _manifest(plan, source, dtype, options)
        shutil.rmtree(folder / MARKERS)
        (folder / PLAN_NAME).unlink()
        write_manifest(folder, manifest, known={done.file: done.sha256 for done in finished.values()})


def _identity(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
    """Return what two calls must agree in so that the second can go on from the first's pieces."""
    files = sorted({*checkpoint.folder.file_of.values(), checkpoint.folder.path / "config.json"})
    return {
        "source": {file.name: [(s := file.stat()).st_size, s.st_mtime_ns] for file in files},
        "--dtype": str(dtype),
        "version of the converter": PIECES_VERSION,
    }


def _finish(
    plan: ConversionPlan, folder: Path, pieces: list[Piece], finished: dict[Piece, FinishedPiece]
) -> None:
    """Write what stands beside the pieces."""
    language = [piece for piece in pieces if piece.part == "language"]
    stored = [tensor for piece in language for tensor in finished[piece].stored]
    finish_language(folder / "language", [piece.specs for piece in language], stored)
    write_megatron_metadata(folder / "language")
    native = json.dumps(plan.checkpoint.config, indent=2) + "\n"
    (folder / "vision" / "config.json").write_text(native, encoding="utf-8")
    copy_without_weights(plan.checkpoint.folder.path, folder / "tokenizer")


def _manifest(plan: ConversionPlan, source: Path, dtype: torch.dtype, options: Options) -> TeacherManifest:
    verified = ("round_trip", f"loads_at_tp{options.tp}_pp{options.pp}") if options.verify else ()
    return TeacherManifest(
        family=plan.checkpoint.family,
        dtype=str(dtype).removeprefix("torch."),
        source=source.resolve().name,
        source_layout=plan.checkpoint.layout.name,
        language=plan.spec,
        digests={},
        verified=verified,
    )


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Return the one dtype of a checkpoint's tensors.

    Raises `ValueError` when they differ or are none that a teacher may have: a cast must be asked for.
    """
    example: dict[torch.dtype, str] = {}
    for key in checkpoint.holder:
        example.setdefault(checkpoint.dtype(key), checkpoint.published_name(key))
    if len(example) > 1 or str(next(iter(example))).removeprefix("torch.") not in DTYPES:
        found = ", ".join(f"{dtype} ({key})" for dtype, key in example.items())
        raise ValueError(
            f"{checkpoint.folder.path} holds tensors of {found}; pass --dtype with one of {DTYPES}"
        )
    return next(iter(example))


def verify_round_trip(plan: ConversionPlan, converted: Path, dtype: torch.dtype) -> None:
    """Raise `ValueError` naming the first published tensor that does not come back bit by bit."""
    checkpoint = plan.checkpoint
    source = teacher_tensors(converted, plan)
    for name, tensor in published_tensors(checkpoint.layout, checkpoint.config, plan.keys, source):
        if not torch.equal(tensor, checkpoint.folder.read(name).to(dtype)):
            raise ValueError(f"tensor {name} does not come back as it was; this is a bug of the table")


def teacher_tensors(folder: Path, described: ConversionPlan | TeacherManifest) -> TeacherTensors:
    """Return the native tensors of a teacher folder."""
    spec = described.spec if isinstance(described, ConversionPlan) else described.language
    return TeacherTensors(
        spec,
        language=LanguageReader(folder / "language"),
        vision=safetensors_reader(folder / "vision"),
        head=safetensors_reader(folder / "head"),
    )


def convert_to_hf(source: Path, out: Path, *, overwrite: bool, progress: Progress = no_progress) -> None:
    """Write a teacher folder back as the Hugging Face folder that it was converted from.

    Raises `ValueError` for a folder that is not a whole teacher or a target that cannot be written; `out` is
    then as it was.
    """
    manifest = validate_teacher_folder(source)
    tensors = teacher_tensors(source, manifest)
    native = read_json_object(source / "vision" / "config.json")
    published = read_json_object(source / "tokenizer" / "config.json")
    layout = layout_named(manifest.source_layout, manifest.family, published)
    keys = [
        *tensors.body_names(),
        *(f"model.{name}" for name in safetensors_reader(source / "vision").file_of),
    ]
    keys += [] if manifest.language.tied_embeddings else ["lm_head.weight"]
    dtype = getattr(torch, manifest.dtype)

    def stream(values: Source | OnMeta) -> Iterator[tuple[str, torch.Tensor]]:
        return published_tensors(layout, native, keys, values)

    specs = [TensorSpec(name=n, shape=tuple(t.shape), dtype=dtype) for n, t in stream(OnMeta(tensors))]
    with replacing(out, source=source, overwrite=overwrite) as workspace:
        num_bytes = sum(spec.num_bytes for spec in specs)
        check_free_space(out, num_bytes)
        folder, advance = workspace.begin(), progress(num_bytes)
        copy_without_weights(source / "tokenizer", folder)
        _set_dtype(folder / "config.json", manifest.dtype)
        values = stream(tensors)
        write_shards(
            folder, cut_into_pieces(specs, max_bytes=SHARD_BYTES), lambda _: next(values)[1], advance
        )


def _set_dtype(path: Path, dtype: str) -> None:
    """Say in a published config which dtype the files have, where a conversion has cast them."""
    config = read_json_object(path)
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    stale = [
        (section, name)
        for section in sections
        for name in ("dtype", "torch_dtype")
        if section.get(name) not in (None, dtype)
    ]
    for section, name in stale:
        section[name] = dtype
    if stale:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_shards(
    folder: Path,
    pieces: list[tuple[TensorSpec, ...]],
    read: Callable[[str], torch.Tensor],
    advance: Advance,
) -> None:
    """Write `model.safetensors`, or numbered shards and their index, as transformers names them."""
    names = [f"model-{n:05d}-of-{len(pieces):05d}.safetensors" for n in range(1, len(pieces) + 1)]
    if len(pieces) == 1:
        names = ["model.safetensors"]
    for name, piece in zip(names, pieces, strict=True):
        write_safetensors(folder / name, piece, read, advance)
    if len(pieces) > 1:
        index = {
            "metadata": {"total_size": sum(spec.num_bytes for piece in pieces for spec in piece)},
            "weight_map": {s.name: name for name, piece in zip(names, pieces, strict=True) for s in piece},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def safetensors_reader(folder: Path) -> HfFolder:
    """Return a reader of `folder/model.safetensors`."""
    path = folder / "model.safetensors"
    return HfFolder(path=folder, config={}, file_of={key: path for key in tensor_names(path)})


def copy_without_weights(source: Path, target: Path) -> None:
    """Copy a folder's files except weights and hidden ones: config, tokenizer, processor, templates."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        is_weight = any(path.match(pattern) for pattern in WEIGHT_NAMES)
        if path.is_file() and not is_weight and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
