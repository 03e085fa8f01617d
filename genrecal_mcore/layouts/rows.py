"""Rows of a layout table: how one published tensor and native tensors become each other.

In names, `{n}` is a number, `{p}` for the last part (`weight`, `bias`) and `{rest}` for anything; what
they match in one name is put into the others.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

NativeConfig = Mapping[str, Any]
_PLACEHOLDERS = {"{n}": r"(?P<n>\d+)", "{p}": r"(?P<p>\w+)", "{rest}": r"(?P<rest>.+)"}


def _same(tensor: torch.Tensor, _: NativeConfig) -> Sequence[torch.Tensor]:
    return (tensor,)


def _only(tensors: Sequence[torch.Tensor], _: NativeConfig) -> torch.Tensor:
    (tensor,) = tensors
    return tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of tensor: its published name and the native tensors that it holds."""

    published: str
    native: tuple[str, ...]
    split: Callable[[torch.Tensor, NativeConfig], Sequence[torch.Tensor]] = _same
    """Published tensor -> native tensors, in the order of `native`."""
    join: Callable[[Sequence[torch.Tensor], NativeConfig], torch.Tensor] = _only
    """The way back, bit for bit."""
    _patterns: dict[str, re.Pattern[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def native_names(self, published: str) -> tuple[str, ...] | None:
        """Return the native names of a published tensor, or None when this is not its row."""
        return self._renamed(self.published, published, self.native)

    def published_name(self, native: str) -> str | None:
        """Return the published name of the tensor that holds a native one, or None."""
        for template in self.native:
            found = self._renamed(template, native, (self.published,))
            if found:
                return found[0]
        return None

    def _renamed(self, template: str, name: str, targets: tuple[str, ...]) -> tuple[str, ...] | None:
        match = self._pattern(template).fullmatch(name)
        if match is None:
            return None
        values = match.groupdict()
        return tuple(target.format(**values) for target in targets)

    def _pattern(self, template: str) -> re.Pattern[str]:
        if template not in self._patterns:
            expression = re.escape(template)
            for placeholder, group in _PLACEHOLDERS.items():
                expression = expression.replace(re.escape(placeholder), group)
            self._patterns[template] = re.compile(expression)
        return self._patterns[template]


def renamed(published: str, native: str) -> Row:
    """Return a row for a tensor that only changes its name."""
    return Row(published, (native,))


def stacked(published: str, *native: str) -> Row:
    """Return a row for tensors that are stacked along dimension 0, in equal parts."""
    return Row(
        published,
        native,
        split=lambda tensor, _: tensor.chunk(len(native)),
        join=lambda tensors, _: torch.cat(list(tensors)),
    )


def grouped_qkv(published: str, query: str, key: str, value: str) -> Row:
    """Return a row for InternLM2's `wqkv`: for each group its query heads, then its key, its value.

    Source: `modeling_internlm2.py`, `InternLM2Attention.forward`. Megatron's `linear_qkv` has the same order.
    """
    return Row(published, (query, key, value), split=split_grouped_qkv, join=join_grouped_qkv)


def split_grouped_qkv(tensor: torch.Tensor, config: NativeConfig) -> Sequence[torch.Tensor]:
    """Return q `[n d, h]`, k and v `[n_kv d, h]` of a grouped `[(n + 2 n_kv) d, h]`."""
    per_group, num_groups = _heads(config)
    groups = tensor.unflatten(0, (num_groups, per_group + 2, -1))
    return [part.flatten(0, 2) for part in groups.split((per_group, 1, 1), dim=1)]


def join_grouped_qkv(tensors: Sequence[torch.Tensor], config: NativeConfig) -> torch.Tensor:
    """Undo `split_grouped_qkv`."""
    per_group, num_groups = _heads(config)
    parts = [
        tensor.unflatten(0, (num_groups, count, -1))
        for tensor, count in zip(tensors, (per_group, 1, 1), strict=True)
    ]
    return torch.cat(parts, dim=1).flatten(0, 2)


def _heads(config: NativeConfig) -> tuple[int, int]:
    text = config["text_config"]
    num_groups = text.get("num_key_value_heads") or text["num_attention_heads"]
    return text["num_attention_heads"] // num_groups, num_groups
