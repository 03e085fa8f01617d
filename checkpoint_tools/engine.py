"""Converts whole checkpoints by a family's table, both ways, with every key accounted for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from checkpoint_tools.families import TABLES, FamilyTable
from checkpoint_tools.families.decoder import decoder_entries
from checkpoint_tools.transforms import Entry
from genrecal_mcore.config import Family, LanguageBodySpec

NATIVE_OLD, NATIVE_NEW = "native_old", "native_new"
"""Spellings of the native Hugging Face layout: on hub disks, and in memory."""

EMBEDDING = "model.language_model.embed_tokens.weight"


class TensorSource(Protocol):
    """Anything that gives a tensor by its name."""

    def read(self, key: str) -> torch.Tensor:
        """Return the tensor."""


class CheckedSource(TensorSource, Protocol):
    """A source that also knows shapes without reading."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionPlan:
    """Which source key becomes what; keys are in the newer spelling, `spelled` gives them back as found."""

    family: Family
    spec: LanguageBodySpec
    layout: str
    entries: tuple[Entry, ...]
    vision: tuple[str, ...]
    spelled: Mapping[str, str]
    has_head: bool
    """Whether the source holds a head of its own; a tied one is its embedding."""


def plan_conversion(family: Family, spec: LanguageBodySpec, keys: list[str]) -> ConversionPlan:
    """Match every key of a source with the family's table.

    Raises `ValueError` listing the keys that are missing and those that are unknown.
    """
    table = TABLES[family]
    layout = layout_of_keys(keys)
    spelled = {to_new(key, table, layout): key for key in keys}
    entries = tuple(decoder_entries(spec))
    vision = tuple(sorted(key for key in spelled if key.startswith(table.vision_prefixes)))
    expected = {name for entry in entries for name in entry.hf}
    has_head = table.head in spelled
    if not spec.tied_embeddings:
        expected.add(table.head)
    missing = sorted(expected - spelled.keys())
    unknown = sorted(spelled.keys() - expected - set(vision) - {table.head})
    if missing or unknown or not vision:
        raise ValueError(
            f"the checkpoint does not fit the table of {family.value} with {spec.num_layers} layers: "
            f"{_listed('missing', missing)}; {_listed('unknown', [spelled[key] for key in unknown])}; "
            f"{len(vision)} vision tensors"
        )
    return ConversionPlan(
        family=family,
        spec=spec,
        layout=layout,
        entries=entries,
        vision=vision,
        spelled=spelled,
        has_head=has_head,
    )


def _listed(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return f"{len(keys)} {what}" + (f" ({shown})" if keys else "")


def layout_of_keys(keys: list[str]) -> str:
    """Return in which spelling a checkpoint's keys are."""
    return NATIVE_NEW if any(key.startswith("model.language_model.") for key in keys) else NATIVE_OLD


def to_new(key: str, table: FamilyTable, layout: str) -> str:
    """Return a key in the newer spelling."""
    if layout == NATIVE_NEW:
        return key
    for old, new in table.old_to_new:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def from_new(key: str, table: FamilyTable, layout: str) -> str:
    """Return a key of the newer spelling as `layout` spells it."""
    if layout == NATIVE_NEW:
        return key
    for old, new in table.old_to_new:
        if key.startswith(new):
            return old + key.removeprefix(new)
    return key


def language_tensors(
    plan: ConversionPlan, source: TensorSource, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (Megatron name, tensor) of the language body.

    Raises `ValueError` naming the key of a tensor whose shape the config contradicts.
    """
    shapes = expected_shapes(plan.spec)
    for entry in plan.entries:
        parts = [source.read(plan.spelled[name]) for name in entry.hf]
        for name, part in zip(entry.hf, parts, strict=True):
            expected = shapes[".".join(piece for piece in name.split(".") if not piece.isdigit())]
            if tuple(part.shape) != expected:
                raise ValueError(
                    f"tensor {plan.spelled[name]} has shape {tuple(part.shape)}, "
                    f"but config.json makes it {expected}"
                )
        yield entry.mcore, entry.merge(parts, plan.spec).to(dtype)


def expected_shapes(spec: LanguageBodySpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the decoder, by its name without the layer number."""
    h, f, d = spec.hidden_size, spec.ffn_hidden_size, spec.head_dim
    q, kv = spec.num_attention_heads * d, spec.num_query_groups * d
    body, layer = "model.language_model.", "model.language_model.layers."
    return {
        body + "embed_tokens.weight": (spec.vocab_size, h),
        body + "norm.weight": (h,),
        layer + "input_layernorm.weight": (h,),
        layer + "post_attention_layernorm.weight": (h,),
        layer + "self_attn.q_proj.weight": (q, h),
        layer + "self_attn.k_proj.weight": (kv, h),
        layer + "self_attn.v_proj.weight": (kv, h),
        layer + "self_attn.q_proj.bias": (q,),
        layer + "self_attn.k_proj.bias": (kv,),
        layer + "self_attn.v_proj.bias": (kv,),
        layer + "self_attn.o_proj.weight": (h, q),
        layer + "mlp.gate_proj.weight": (f, h),
        layer + "mlp.up_proj.weight": (f, h),
        layer + "mlp.down_proj.weight": (h, f),
    }


def check_vision(
    plan: ConversionPlan, source: CheckedSource, expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Match tower and projector with the names and shapes that their class has for the source's config.

    Raises `ValueError` listing what is missing, unknown or of another shape. `expected` names lack `model.`.
    """
    found = {key.removeprefix("model."): plan.spelled[key] for key in plan.vision}
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found[name] for name in found.keys() - expected.keys())
    wrong = [
        f"{found[name]} {source.shape(found[name])} instead of {shape}"
        for name, shape in expected.items()
        if name in found and source.shape(found[name]) != shape
    ]
    if missing or unknown or wrong:
        raise ValueError(
            f"the vision tower and projector do not fit config.json: {_listed('missing', missing)}; "
            f"{_listed('unknown', unknown)}; {_listed('of another shape', wrong)}"
        )


def head_tensor(plan: ConversionPlan, source: TensorSource, dtype: torch.dtype) -> torch.Tensor:
    """Return the head `[v, h]`: the source's own, or its embedding when they are tied.

    Raises `ValueError` when a tied checkpoint holds a head that differs from its embedding, or a head has
    another shape.
    """
    table = TABLES[plan.family]
    embedding = source.read(plan.spelled[EMBEDDING])
    head = source.read(plan.spelled[table.head]) if plan.has_head else embedding
    if plan.spec.tied_embeddings and not torch.equal(head, embedding):
        raise ValueError(
            f"config.json says tie_word_embeddings, but {plan.spelled[table.head]} differs from "
            f"{plan.spelled[EMBEDDING]}; set tie_word_embeddings to false in config.json if the file is right"
        )
    if head.shape != embedding.shape:
        raise ValueError(f"the head has shape {tuple(head.shape)}, the embedding {tuple(embedding.shape)}")
    return head.to(dtype)


def vision_tensors(
    plan: ConversionPlan, source: TensorSource, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name without `model.`, tensor) of tower and projector."""
    for key in plan.vision:
        yield key.removeprefix("model."), source.read(plan.spelled[key]).to(dtype)


def hf_tensors(
    family: Family, spec: LanguageBodySpec, layout: str, parts: Mapping[str, TensorSource]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (Hugging Face name as `layout` spells it, tensor) of a converted teacher's `language` and `head`.

    `parts` gives the tensors of `language` and `head`. A tied head is not written, as its makers do not write
    it.
    """
    table = TABLES[family]
    for entry in decoder_entries(spec):
        tensors = entry.split(parts["language"].read(entry.mcore), spec)
        for name, tensor in zip(entry.hf, tensors, strict=True):
            yield (
                from_new(name, table, layout),
                tensor.clone(),
            )  # not a view: safetensors stores whole storages
    if not spec.tied_embeddings:
        yield from_new(table.head, table, layout), parts["head"].read("weight")
