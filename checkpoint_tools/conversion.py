"""The two conversions as functions: a Hugging Face folder to a teacher folder, and back, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from checkpoint_tools.engine import (
    ConversionPlan,
    OnMeta,
    Source,
    TeacherTensors,
    merged,
    merged_shape,
    plan_conversion,
)
from checkpoint_tools.mcore_folder import LanguageReader, write_manifest, write_megatron_metadata
from checkpoint_tools.streaming import (
    Advance,
    TensorSpec,
    cut_into_pieces,
    finish_language,
    write_language_piece,
    write_safetensors,
)
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
PIECE_BYTES = 2 * 2**30
SHARD_BYTES = 5 * 10**9

Progress = Callable[[int], Advance]
"""Called once with the bytes to write; what it returns is called with the bytes of each tensor written."""


def no_progress(total_bytes: int) -> Advance:
    """Show nothing."""
    del total_bytes
    return lambda _: None


def convert_to_mcore(
    source: Path,
    out: Path,
    *,
    dtype: str | None,
    verify: bool,
    overwrite: bool,
    progress: Progress = no_progress,
) -> None:
    """Convert a Hugging Face VLM of any known layout into a teacher folder, one tensor in memory at a time.

    `dtype`: name of a torch dtype, or None for the source's. `verify`: convert back and compare every tensor
    bit by bit. Raises `ValueError` for anything wrong with the source or the target; `out` is then as it was.
    """
    with replacing(out, source=source, overwrite=overwrite) as make_partial:
        checkpoint = open_checkpoint(source)
        plan = plan_conversion(checkpoint)
        torch_dtype = getattr(torch, dtype) if dtype else stored_dtype(checkpoint)
        language, vision, head = tensor_specs(plan, torch_dtype)
        num_bytes = sum(spec.num_bytes for spec in (*language, *vision, head))
        check_free_space(out, num_bytes)
        partial, advance = make_partial(), progress(num_bytes)
        write_language(partial / "language", plan, language, advance)
        read_vision = lambda name: checkpoint.read(f"model.{name}")  # noqa: E731
        write_safetensors(partial / "vision" / "model.safetensors", vision, read_vision, advance)
        native = json.dumps(checkpoint.config, indent=2) + "\n"
        (partial / "vision" / "config.json").write_text(native, encoding="utf-8")
        read_head = lambda _: checkpoint.read(plan.head)  # noqa: E731
        write_safetensors(partial / "head" / "model.safetensors", [head], read_head, advance)
        copy_without_weights(source, partial / "tokenizer")
        if verify:
            verify_round_trip(plan, partial, torch_dtype)
        manifest = TeacherManifest(
            family=checkpoint.family,
            dtype=str(torch_dtype).removeprefix("torch."),
            source=source.resolve().name,
            source_layout=checkpoint.layout.name,
            language=plan.spec,
            digests={},
            verified=("round_trip",) if verify else (),
        )
        write_manifest(partial, manifest)


def tensor_specs(
    plan: ConversionPlan, dtype: torch.dtype
) -> tuple[list[TensorSpec], list[TensorSpec], TensorSpec]:
    """Return what is written into `language`, `vision` and `head`."""
    checkpoint = plan.checkpoint
    language = [
        TensorSpec(name=entry.mcore, shape=merged_shape(entry, plan), dtype=dtype) for entry in plan.entries
    ]
    vision = [
        TensorSpec(name=key.removeprefix("model."), shape=checkpoint.shape(key), dtype=dtype)
        for key in plan.vision
    ]
    return language, vision, TensorSpec(name="weight", shape=checkpoint.shape(plan.head), dtype=dtype)


def write_language(folder: Path, plan: ConversionPlan, specs: list[TensorSpec], advance: Advance) -> None:
    """Write the language body as a `torch_dist` checkpoint of whole tensors, loadable at any tp x pp."""
    entry_of = {entry.mcore: entry for entry in plan.entries}
    pieces = cut_into_pieces(specs, max_bytes=PIECE_BYTES)
    stored = [
        tensor
        for number, piece in enumerate(pieces)
        for tensor in write_language_piece(
            folder, number, piece, lambda name: merged(entry_of[name], plan), advance
        )
    ]
    finish_language(folder, pieces, stored)
    write_megatron_metadata(folder)


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
    with replacing(out, source=source, overwrite=overwrite) as make_partial:
        num_bytes = sum(spec.num_bytes for spec in specs)
        check_free_space(out, num_bytes)
        partial, advance = make_partial(), progress(num_bytes)
        copy_without_weights(source / "tokenizer", partial)
        values = stream(tensors)
        write_shards(
            partial, cut_into_pieces(specs, max_bytes=SHARD_BYTES), lambda _: next(values)[1], advance
        )


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


def check_free_space(out: Path, num_bytes: int) -> None:
    """Raise `ValueError` when the disk that `out` will be on has less than `num_bytes` free."""
    existing = next(path for path in out.resolve().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise ValueError(
            f"{out} needs {num_bytes} bytes, but {existing} has {free} free; choose another --out"
        )


@contextmanager
def replacing(out: Path, *, source: Path, overwrite: bool) -> Iterator[Callable[[], Path]]:
    """Give a function that makes a folder beside `out` to write into, and rename that to `out` at the end.

    Raises `ValueError` before anything is written when `out` exists and `overwrite` is not given, when it is
    not a folder, or when it and `source` lie in each other. A failure removes what was written.
    """
    out = out.resolve()
    check_target(out, source=source.resolve(), overwrite=overwrite)
    partial = out.with_name(f".partial_{out.name}")

    def make_partial() -> Path:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    try:
        yield make_partial
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(out: Path, *, source: Path, overwrite: bool) -> None:
    """Raise `ValueError` when `out` cannot be written; both paths are resolved."""
    if out == source or out in source.parents or source in out.parents:
        raise ValueError(f"{out} and the source {source} lie in each other; choose another --out")
    blocking = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise ValueError(f"{blocking} is a file; choose another --out")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; choose another --out or pass --overwrite")
