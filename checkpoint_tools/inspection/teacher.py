"""Describes a converted teacher."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

from checkpoint_tools.conversion import Progress, no_progress
from checkpoint_tools.decoder import decoder_entries
from checkpoint_tools.engine import HEAD
from checkpoint_tools.inspection.facts import DigestFacts, Inspection, TeacherFacts, TensorFacts
from checkpoint_tools.inspection.headers import StoredHeader, stored_in_folder, stored_in_language
from checkpoint_tools.inspection.hugging_face import attempt, part_of, vision_sizes
from genrecal_mcore.config import (
    LanguageBodySpec,
    TeacherManifest,
    load_teacher_manifest,
    sha256_of,
    validate_teacher_folder,
)
from genrecal_mcore.config.teacher_manifest import MANIFEST_NAME
from genrecal_mcore.layouts import read_json_object

MAX_TP = 64


def inspect_teacher(folder: Path, *, digests: bool, progress: Progress = no_progress) -> Inspection:
    """Describe a converted teacher.

    Files that are missing, damaged or not as `teacher.json` says are problems. Raises `ValueError` when
    `teacher.json` cannot be read.
    """
    manifest = load_teacher_manifest(folder)
    problems: list[str] = []
    attempt(lambda: validate_teacher_folder(folder), problems)
    checked = check_digests(folder, manifest, progress) if digests else None
    if checked is not None:
        problems += [f"{folder / name} is missing" for name in checked.missing]
        problems += [f"{folder / name} is not as {MANIFEST_NAME} says" for name in checked.differing]
    config = attempt(lambda: read_json_object(folder / "vision" / "config.json"), problems) or {}
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
    """Return the tensor- and the pipeline-parallel sizes that divide a body's."""
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
        try:
            is_same = sha256_of(folder / name) == manifest.digests[name]
        except OSError:
            is_same = False
        differing += [name] * (not is_same)
        advance((folder / name).stat().st_size)
    return DigestFacts(num_files=len(manifest.digests), missing=missing, differing=tuple(differing))


def _teacher_tensors(
    folder: Path, manifest: TeacherManifest, checked: DigestFacts | None, problems: list[str]
) -> Iterator[TensorFacts]:
    """Yield the tensors of all subfolders that can be read; what cannot becomes a problem."""
    wrong = (*checked.missing, *checked.differing) if checked else ()
    if "language/.metadata" not in wrong:  # a pickle: not opened when it is known to be another one
        native_of = {entry.mcore: entry.hf for entry in decoder_entries(manifest.language)}
        for stored in attempt(lambda: stored_in_language(folder / "language"), problems) or []:
            yield _teacher_facts("language", stored, native_of.get(stored.name, ()), manifest)
    for stored in attempt(lambda: stored_in_folder(folder / "vision"), problems) or []:
        yield _teacher_facts("vision", stored, (f"model.{stored.name}",), manifest)
    for stored in attempt(lambda: stored_in_folder(folder / "head"), problems) or []:
        yield _teacher_facts("head", stored, (HEAD,), manifest)


def _teacher_facts(
    subfolder: str, stored: StoredHeader, native: tuple[str, ...], manifest: TeacherManifest
) -> TensorFacts:
    part = part_of(native, None, is_tied=manifest.language.tied_embeddings)
    return TensorFacts(
        name=f"{subfolder}/{stored.name}",
        native=native,
        part=part,
        shape=stored.shape,
        dtype=stored.dtype,
        num_parameters=0 if part == "tied_head" else prod(stored.shape),
        num_bytes=stored.num_bytes,
    )
