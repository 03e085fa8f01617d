"""The two conversions as functions: a Hugging Face folder to a teacher folder, and back."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict

from checkpoint_tools.engine import (
    ConversionPlan,
    TensorSource,
    check_vision,
    from_new,
    head_tensor,
    hf_tensors,
    language_tensors,
    plan_conversion,
    vision_tensors,
)
from checkpoint_tools.families import TABLES
from checkpoint_tools.hf_folder import HfFolder, keys_of, language_body_spec, open_hf_folder
from checkpoint_tools.mcore_folder import LanguageReader, write_language, write_manifest, write_safetensors
from genrecal_mcore.config import TeacherManifest, family_of_hf_config, validate_teacher_folder
from genrecal_mcore.models import vision_shapes

DTYPES = ("float32", "bfloat16", "float16")
WEIGHT_NAMES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth")


def convert_to_mcore(source: Path, out: Path, *, dtype: str | None, verify: bool, overwrite: bool) -> None:
    """Convert a Hugging Face VLM into a teacher folder.

    `dtype`: name of a torch dtype, or None for the source's. `verify`: convert back and compare every tensor
    bit by bit. Raises `ValueError` for anything wrong with the source or the target; `out` is then as it was.
    """
    folder = open_hf_folder(source)
    family = family_of_hf_config(folder.config, where=str(source / "config.json"))
    plan = plan_conversion(family, language_body_spec(folder.config), list(folder.file_of))
    check_vision(plan, folder, vision_shapes(source, family))
    torch_dtype = getattr(torch, dtype) if dtype else stored_dtype(plan, folder)
    with replacing(out, source=source, overwrite=overwrite) as partial:
        write_language(partial / "language", language_tensors(plan, folder, torch_dtype))
        write_safetensors(partial / "vision" / "model.safetensors", vision_tensors(plan, folder, torch_dtype))
        shutil.copyfile(source / "config.json", partial / "vision" / "config.json")
        head = head_tensor(plan, folder, torch_dtype)
        write_safetensors(partial / "head" / "model.safetensors", [("weight", head)])
        copy_without_weights(source, partial / "tokenizer")
        verified = ()
        if verify:
            verify_round_trip(plan, folder, partial, torch_dtype)
            verified = ("round_trip",)
        manifest = TeacherManifest(
            family=family,
            dtype=str(torch_dtype).removeprefix("torch."),
            source=source.resolve().name,
            source_layout=plan.layout,
            language=plan.spec,
            digests={},
            verified=verified,
        )
        write_manifest(partial, manifest)


def stored_dtype(plan: ConversionPlan, folder: HfFolder) -> torch.dtype:
    """Return the one dtype of a checkpoint's tensors.

    Raises `ValueError` when they differ or are none that a teacher may have: a cast must be asked for.
    """
    example: dict[torch.dtype, str] = {}
    for key in plan.spelled.values():
        example.setdefault(folder.dtype(key), key)
    if len(example) > 1 or str(next(iter(example))).removeprefix("torch.") not in DTYPES:
        found = ", ".join(f"{dtype} ({key})" for dtype, key in example.items())
        raise ValueError(f"{folder.path} holds tensors of {found}; pass --dtype with one of {DTYPES}")
    return next(iter(example))


def verify_round_trip(plan: ConversionPlan, source: HfFolder, converted: Path, dtype: torch.dtype) -> None:
    """Raise `ValueError` naming the first tensor that does not come back bit by bit."""
    for key, tensor in _converted_tensors(plan, converted):
        if not torch.equal(tensor, source.read(key).to(dtype)):
            raise ValueError(f"tensor {key} does not come back as it was; this is a bug of the table")


def _converted_tensors(plan: ConversionPlan, converted: Path) -> Iterator[tuple[str, torch.Tensor]]:
    parts = {
        "language": LanguageReader(converted / "language"),
        "head": safetensors_reader(converted / "head"),
    }
    yield from hf_tensors(plan.family, plan.spec, plan.layout, parts)
    vision = safetensors_reader(converted / "vision")
    for key in plan.vision:
        yield plan.spelled[key], vision.read(key.removeprefix("model."))


def convert_to_hf(source: Path, out: Path, *, overwrite: bool) -> None:
    """Write a teacher folder back as the Hugging Face folder that it was converted from.

    Raises `ValueError` for a folder that is not a whole teacher or a target that exists; `out` is then as it
    was.
    """
    manifest = validate_teacher_folder(source)
    table, layout = TABLES[manifest.family], manifest.source_layout
    tensors = dict(hf_tensors(manifest.family, manifest.language, layout, text_parts(source)))
    vision = safetensors_reader(source / "vision")
    for name in vision.file_of:
        tensors[from_new("model." + name, table, layout)] = vision.read(name)
    with replacing(out, source=source, overwrite=overwrite) as partial:
        copy_without_weights(source / "tokenizer", partial)
        save_torch_state_dict(tensors, partial, max_shard_size="5GB", safe_serialization=True)


def text_parts(folder: Path) -> dict[str, TensorSource]:
    """Return readers of the language body and the head of a teacher folder."""
    return {"language": LanguageReader(folder / "language"), "head": safetensors_reader(folder / "head")}


def safetensors_reader(folder: Path) -> HfFolder:
    """Return a reader of `folder/model.safetensors`."""
    path = folder / "model.safetensors"
    return HfFolder(path=folder, config={}, file_of={key: path for key in keys_of(path)})


def copy_without_weights(source: Path, target: Path) -> None:
    """Copy a folder's files except weights and hidden ones: config, tokenizer, processor, templates."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        is_weight = any(path.match(pattern) for pattern in WEIGHT_NAMES)
        if path.is_file() and not is_weight and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


@contextmanager
def replacing(out: Path, *, source: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside `out` to write into and rename it to `out` at the end; on failure remove it.

    Raises `ValueError` before anything is written when `out` exists and `overwrite` is not given, when it is
    not a folder, or when it and `source` lie in each other.
    """
    out = out.resolve()
    check_target(out, source=source.resolve(), overwrite=overwrite)
    partial = out.with_name(f".partial_{out.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
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
