"""What a checkpoint folder holds: a Hugging Face checkpoint of any known layout, or a converted teacher.

Everything is read from configs and headers; tensors' values are read for `digests` alone, and to compare a
tied head that is stored a second time. What is wrong inside a folder becomes a problem of its description.
"""

import json
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from checkpoint_tools.conversion import Progress, no_progress, safetensors_reader
from checkpoint_tools.decoder import decoder_entries
from checkpoint_tools.engine import EMBEDDING, HEAD, LANGUAGE_PREFIX, plan_conversion
from checkpoint_tools.mcore_folder import LanguageReader
from checkpoint_tools.streaming import SAFETENSORS_DTYPES
from genrecal_mcore.config import (
    Family,
    LanguageBodySpec,
    TeacherManifest,
    load_teacher_manifest,
    validate_teacher_folder,
)
from genrecal_mcore.config.teacher_manifest import MANIFEST_NAME
from genrecal_mcore.layouts import Checkpoint, open_checkpoint, read_json_object
from genrecal_mcore.native import native_shapes

Result = TypeVar("Result")

PARTS = ("vision", "language", "embedding", "head")
"""`vision` has the projector, `language` is without the embedding."""
OTHER_PARTS = ("tied_head", "unknown")
"""A second copy of the embedding, which counts as no parameter, and what the class does not have."""
MAX_TP = 64

VISION_FIELDS = {
    "num_layers": ("num_hidden_layers", "depth"),
    "hidden_size": ("embed_dim", "hidden_size"),  # Qwen2-VL's hidden_size is that of the language body
    "num_attention_heads": ("num_attention_heads", "num_heads"),
}
"""Sizes of the vision tower and what the families call them, the first that is there counts."""

HINTS = {
    "state.json": "it looks like a checkpoint of a run: `genrecal export RUN` writes a folder to inspect",
    "config.yaml": "it looks like a run folder: `genrecal export RUN` writes a folder to inspect",
}
"""Files of folders that are no checkpoint for this."""
FOUND_BY = (MANIFEST_NAME, "config.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorFacts:
    """One stored tensor."""

    name: str
    """As in the file; a teacher's has the name of its subfolder before it."""
    native: tuple[str, ...]
    """Native names of the tensors that it holds; none if it is unknown."""
    part: str
    """One of `PARTS` and `OTHER_PARTS`."""
    shape: tuple[int, ...]
    dtype: str
    num_parameters: int
    """Of the model: neither a tied head's nor the zeros that a layout pads with."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DigestFacts:
    """The files of a teacher compared with `teacher.json`."""

    num_files: int
    missing: tuple[str, ...]
    differing: tuple[str, ...]
    """Those that cannot be read are among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFacts:
    """What only a converted teacher has."""

    source: str
    dtype: str
    verified: tuple[str, ...]
    tp: tuple[int, ...]
    """Tensor-parallel sizes that it can run at, each together with each of `pp`."""
    pp: tuple[int, ...]
    digests: DigestFacts | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a folder holds."""

    path: Path
    family: Family
    layout: str
    """Of a teacher: that of its source."""
    language: LanguageBodySpec | None
    """None when the config describes no body that can be converted; `problems` says why."""
    vision: Mapping[str, int | None]
    """Layers, hidden size and heads; None for what the config does not name."""
    tensors: tuple[TensorFacts, ...]
    num_files: int
    """Files of weights; of a teacher all that `teacher.json` names."""
    problems: tuple[str, ...]
    teacher: TeacherFacts | None = None

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors of each dtype."""
        return dict(Counter(tensor.dtype for tensor in self.tensors))

    @property
    def parts(self) -> dict[str, dict[str, int]]:
        """Tensors, parameters and bytes of each part, and `total`."""
        found = {tensor.part for tensor in self.tensors}
        names = [*PARTS, *(part for part in OTHER_PARTS if part in found)]
        sums = {name: _sums(tensor for tensor in self.tensors if tensor.part == name) for name in names}
        return sums | {"total": _sums(self.tensors)}


def _sums(tensors: Iterable[TensorFacts]) -> dict[str, int]:
    rows = [(1, tensor.num_parameters, tensor.num_bytes) for tensor in tensors]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return dict(zip(("tensors", "parameters", "bytes"), map(sum, columns), strict=True))


def inspect_checkpoint(
    folder: Path, *, digests: bool = False, progress: Progress = no_progress
) -> Inspection:
    """Describe a Hugging Face checkpoint or a converted teacher.

    `digests`: read every file of a teacher and compare it with `teacher.json`. Raises `ValueError` for a
    folder that is neither, or of which config or weights cannot be opened at all.
    """
    if (folder / MANIFEST_NAME).is_file():
        return inspect_teacher(folder, digests=digests, progress=progress)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: expected a Hugging Face checkpoint (config.json and safetensors) or a converted "
            f"teacher ({MANIFEST_NAME}), found {_what_is_at(folder)}"
        )
    if digests:
        raise ValueError(f"{folder} has no {MANIFEST_NAME}, which --digests compares its files with")
    return inspect_hf(folder)


def _what_is_at(path: Path) -> str:
    if not path.is_dir():
        return "a file" if path.exists() else "nothing: it does not exist"
    names = sorted(child.name for child in path.iterdir())
    if not names:
        return "an empty folder"
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    hints = [hint for name, hint in HINTS.items() if name in names]
    inside = [name for name in names if any((path / name / file).is_file() for file in FOUND_BY)]
    hints += [f"inspect its {' or '.join(inside)}/"] if inside and not hints else []
    return "; ".join([listed, *hints])


def inspect_hf(folder: Path) -> Inspection:
    """Describe a Hugging Face checkpoint in any layout.

    Tensors that do not fit the class of the config are a problem. Raises `ValueError` for a folder that
    `layouts.open_checkpoint` refuses.
    """
    checkpoint = open_checkpoint(folder)
    problems: list[str] = []
    language = _attempt(lambda: checkpoint.spec, problems)
    plan = _attempt(lambda: plan_conversion(checkpoint), problems)
    expected = (
        plan.keys if plan else _attempt(lambda: native_shapes(checkpoint.config, checkpoint.family), problems)
    )
    known = None if expected is None else frozenset(expected)
    stored = _stored_in_safetensors(checkpoint.folder.file_of)
    is_tied = language is not None and language.tied_embeddings
    return Inspection(
        path=folder,
        family=checkpoint.family,
        layout=checkpoint.layout.name,
        language=language,
        vision=vision_sizes(checkpoint.config),
        tensors=tuple(_published_facts(checkpoint, one, known, is_tied=is_tied) for one in stored),
        num_files=len(set(checkpoint.folder.file_of.values())),
        problems=tuple(problems),
    )


def _attempt(function: Callable[[], Result], problems: list[str]) -> Result | None:
    """Return what `function` returns, or None with its `ValueError` added to the problems, once."""
    try:
        return function()
    except ValueError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """A tensor as a file's header has it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


_DTYPE_NAMES = {stored: str(dtype).removeprefix("torch.") for dtype, stored in SAFETENSORS_DTYPES.items()}


def _stored_in_safetensors(file_of: Mapping[str, Path]) -> list[_Stored]:
    """Read the headers of whole safetensors files, each once, in the order of `file_of`.

    Source: the format's description in the safetensors README: length of the header, header, contents.
    """
    found: dict[str, _Stored] = {}
    for path in dict.fromkeys(file_of.values()):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            dtype = _DTYPE_NAMES.get(entry["dtype"], entry["dtype"])
            found[name] = _Stored(name=name, shape=tuple(entry["shape"]), dtype=dtype, num_bytes=end - start)
    return [found[name] for name in file_of]


def _published_facts(
    checkpoint: Checkpoint, stored: _Stored, known: Collection[str] | None, *, is_tied: bool
) -> TensorFacts:
    native = checkpoint.layout.native_names(stored.name) or ()
    part = _part_of(native, known, is_tied=is_tied)
    # The layout may pad what it stores; a tensor of a wrong shape, which it cannot split, counts as it is.
    shapes = _attempt(lambda: [checkpoint.shape(key) for key in native], []) or [stored.shape]
    return TensorFacts(
        name=stored.name,
        native=native,
        part=part,
        shape=stored.shape,
        dtype=stored.dtype,
        num_parameters=0 if part == "tied_head" else sum(map(prod, shapes)),
        num_bytes=stored.num_bytes,
    )


def _part_of(native: tuple[str, ...], known: Collection[str] | None, *, is_tied: bool) -> str:
    """Return the part of a tensor; `known` holds the native names of the class, None if it has none."""
    if native == (HEAD,):
        return "tied_head" if is_tied else "head"
    if not native or known is not None and native[0] not in known:
        return "unknown"
    if native == (EMBEDDING,):
        return "embedding"
    return "language" if native[0].startswith(LANGUAGE_PREFIX) else "vision"


def vision_sizes(config: Mapping[str, Any]) -> dict[str, int | None]:
    """Return layers, hidden size and heads of the vision tower, as far as a native config names them."""
    tower = config.get("vision_config")
    tower = tower if isinstance(tower, dict) else {}
    return {
        size: next((tower[name] for name in names if tower.get(name) is not None), None)
        for size, names in VISION_FIELDS.items()
    }


def inspect_teacher(folder: Path, *, digests: bool, progress: Progress = no_progress) -> Inspection:
    """Describe a converted teacher.

    Files that are missing, damaged or not as `teacher.json` says are problems. Raises `ValueError` when
    `teacher.json` cannot be read.
    """
    manifest = load_teacher_manifest(folder)
    problems: list[str] = []
    _attempt(lambda: validate_teacher_folder(folder), problems)
    checked = check_digests(folder, manifest, progress) if digests else None
    if checked is not None:
        problems += [f"{folder / name} is missing" for name in checked.missing]
        problems += [f"{folder / name} is not as {MANIFEST_NAME} says" for name in checked.differing]
    config = _attempt(lambda: read_json_object(folder / "vision" / "config.json"), problems) or {}
    tp, pp = mesh_sizes(manifest.language)
    return Inspection(
        path=folder,
        family=manifest.family,
        layout=manifest.source_layout,
        language=manifest.language,
        vision=vision_sizes(config),
        tensors=tuple(_teacher_tensors(folder, manifest, checked, problems)),
        num_files=len(manifest.digests),
        problems=tuple(problems),
        teacher=TeacherFacts(
            source=manifest.source,
            dtype=manifest.dtype,
            verified=manifest.verified,
            tp=tp,
            pp=pp,
            digests=checked,
        ),
    )


def mesh_sizes(spec: LanguageBodySpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tensor- and the pipeline-parallel sizes at which a body can run."""
    fits = {
        axis: tuple(size for size in range(1, limit + 1) if _fits(spec, **{axis: size}))
        for axis, limit in (("tp", MAX_TP), ("pp", spec.num_layers))
    }
    return fits["tp"], fits["pp"]


def _fits(spec: LanguageBodySpec, *, tp: int = 1, pp: int = 1) -> bool:
    try:
        spec.check_divisible(tp=tp, pp=pp)
    except ValueError:
        return False
    return True


def check_digests(folder: Path, manifest: TeacherManifest, progress: Progress = no_progress) -> DigestFacts:
    """Compare the sha256 of every file that a manifest names; reads all of them."""
    missing = tuple(name for name in manifest.digests if not (folder / name).is_file())
    there = [name for name in manifest.digests if name not in missing]
    advance = progress(sum((folder / name).stat().st_size for name in there))
    differing = []
    for name in there:
        if _sha256(folder / name) != manifest.digests[name]:
            differing.append(name)
        advance((folder / name).stat().st_size)
    return DigestFacts(num_files=len(manifest.digests), missing=missing, differing=tuple(differing))


def _sha256(path: Path) -> str | None:
    """Return the digest of a file, or None when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _teacher_tensors(
    folder: Path, manifest: TeacherManifest, checked: DigestFacts | None, problems: list[str]
) -> Iterator[TensorFacts]:
    """Yield the tensors of all subfolders that can be read; what cannot becomes a problem."""
    wrong = (*checked.missing, *checked.differing) if checked else ()
    if "language/.metadata" not in wrong:  # a pickle: not opened when it is known to be another one
        native_of = {entry.mcore: entry.hf for entry in decoder_entries(manifest.language)}
        for stored in _attempt(lambda: _stored_in_language(folder / "language"), problems) or []:
            yield _teacher_facts("language", stored, native_of.get(stored.name, ()), manifest)
    for stored in _attempt(lambda: _stored_in_folder(folder / "vision"), problems) or []:
        yield _teacher_facts("vision", stored, (f"model.{stored.name}",), manifest)
    for stored in _attempt(lambda: _stored_in_folder(folder / "head"), problems) or []:
        yield _teacher_facts("head", stored, (HEAD,), manifest)


def _teacher_facts(
    subfolder: str, stored: _Stored, native: tuple[str, ...], manifest: TeacherManifest
) -> TensorFacts:
    part = _part_of(native, None, is_tied=manifest.language.tied_embeddings)
    return TensorFacts(
        name=f"{subfolder}/{stored.name}",
        native=native,
        part=part,
        shape=stored.shape,
        dtype=stored.dtype,
        num_parameters=0 if part == "tied_head" else prod(stored.shape),
        num_bytes=stored.num_bytes,
    )


def _stored_in_folder(folder: Path) -> list[_Stored]:
    return _stored_in_safetensors(safetensors_reader(folder).file_of)


def _stored_in_language(folder: Path) -> list[_Stored]:
    try:
        stored = LanguageReader(folder).stored
    except Exception as error:  # a damaged pickle raises what it likes
        raise ValueError(
            f"{folder / '.metadata'} cannot be read ({type(error).__name__}); convert the teacher again"
        ) from None
    return [
        _Stored(
            name=name,
            shape=tuple(entry.size),
            dtype=str(entry.properties.dtype).removeprefix("torch."),
            num_bytes=entry.size.numel() * entry.properties.dtype.itemsize,
        )
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    ]


def as_json(inspection: Inspection, *, with_tensors: bool) -> dict[str, Any]:
    """Return everything as one JSON object; the tensors only when asked for."""
    found: dict[str, Any] = {
        "kind": "teacher" if inspection.teacher else "hugging_face",
        "path": str(inspection.path),
        "family": inspection.family.value,
        "layout": inspection.layout,
        "language": inspection.language.model_dump() if inspection.language else None,
        "vision": dict(inspection.vision),
        "num_files": inspection.num_files,
        "parts": inspection.parts,
        "dtypes": inspection.dtypes,
        "problems": list(inspection.problems),
    }
    if inspection.teacher:
        found["teacher"] = asdict(inspection.teacher)
    if with_tensors:
        found["tensors"] = [asdict(tensor) for tensor in inspection.tensors]
    return found
