"""Describes a Hugging Face checkpoint in any layout."""

from collections.abc import Callable, Collection, Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from checkpoint_tools.engine import EMBEDDING, HEAD, LANGUAGE_PREFIX, plan_conversion
from checkpoint_tools.inspection.facts import Inspection, TensorFacts
from checkpoint_tools.inspection.headers import StoredHeader, stored_in_safetensors
from genrecal_mcore.layouts import Checkpoint, open_checkpoint
from genrecal_mcore.native import native_shapes

Result = TypeVar("Result")

VISION_FIELDS = {
    "num_layers": ("num_hidden_layers", "depth"),
    "hidden_size": ("embed_dim", "hidden_size"),  # Qwen2-VL's hidden_size is that of the language body
    "num_attention_heads": ("num_attention_heads", "num_heads"),
}
"""Sizes of the vision tower and what the families call them, the first that is there counts."""


def inspect_hf(folder: Path) -> Inspection:
    """Describe a Hugging Face checkpoint in any layout.

    Tensors that do not fit the class of the config are a problem. Raises `ValueError` for a folder that
    `layouts.open_checkpoint` refuses.
    """
    checkpoint = open_checkpoint(folder)
    problems: list[str] = []
    language = attempt(lambda: checkpoint.spec, problems)
    plan = attempt(lambda: plan_conversion(checkpoint), problems)
    expected = (
        plan.keys if plan else attempt(lambda: native_shapes(checkpoint.config, checkpoint.family), problems)
    )
    known = None if expected is None else frozenset(expected)
    stored = stored_in_safetensors(checkpoint.folder)
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


def attempt(function: Callable[[], Result], problems: list[str]) -> Result | None:
    """Return what `function` returns, or None with its `ValueError` added to the problems, once."""
    try:
        return function()
    except ValueError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return None


def _published_facts(
    checkpoint: Checkpoint, stored: StoredHeader, known: Collection[str] | None, *, is_tied: bool
) -> TensorFacts:
    native = checkpoint.layout.native_names(stored.name) or ()
    part = part_of(native, known, is_tied=is_tied)
    # The layout may pad what it stores; a tensor of a wrong shape, which it cannot split, counts as it is.
    shapes = attempt(lambda: [checkpoint.shape(key) for key in native], []) or [stored.shape]
    return TensorFacts(
        name=stored.name,
        native=native,
        part=part,
        shape=stored.shape,
        dtype=stored.dtype,
        num_parameters=0 if part == "tied_head" else sum(map(prod, shapes)),
        num_bytes=stored.num_bytes,
    )


def part_of(native: tuple[str, ...], known: Collection[str] | None, *, is_tied: bool) -> str:
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
