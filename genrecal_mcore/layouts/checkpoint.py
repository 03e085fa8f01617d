"""A Hugging Face checkpoint in any published layout, seen as a native one: its config, names and tensors.

Nobody behind this door knows which layout the files have. Tensors are read when they are asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from genrecal_mcore.config import Family, LanguageBodySpec, LayoutName, family_of_hf_config
from genrecal_mcore.layouts import internvl_chat, native, nvlm_d
from genrecal_mcore.layouts.folder import HfFolder, open_hf_folder, read_json_object
from genrecal_mcore.layouts.language_spec import language_body_spec
from genrecal_mcore.layouts.rows import Row

IMAGE_TOKENS = {"internvl_chat": "<IMG_CONTEXT>", "NVLM_D": "<|vision_pad|>"}
"""By `model_type` of the layouts that are not native: the token that an image's features replace.

The published config does not hold its id.
"""


class TensorSource(Protocol):
    """Anything that gives a tensor by its name."""

    def read(self, key: str) -> torch.Tensor:
        """Return the tensor."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a checkpoint's files name and pack their tensors."""

    name: LayoutName
    """One of `config.LayoutName`."""
    rows: tuple[Row, ...]

    def native_names(self, published: str) -> tuple[str, ...] | None:
        """Return the native tensors in a published one, or None for a name that the layout does not know."""
        return next((names for row in self.rows if (names := row.native_names(published))), None)

    def row_of_native(self, key: str) -> tuple[Row, str] | None:
        """Return the row and the published name of the tensor that holds a native one, or None."""
        return next(((row, name) for row in self.rows if (name := row.published_name(key))), None)


def layout_named(name: LayoutName, family: Family, published: Mapping[str, Any]) -> Layout:
    """Return a layout by its name, which a converted teacher keeps."""
    if name == "native_new":
        return Layout(name, native.NEW)
    if name == "native_old":
        return Layout(name, native.INTERNVL_OLD if family == Family.INTERNVL else native.QWEN2_VL_OLD)
    if name in ("NVLM_D", "NVLM_D_dummy_heads"):
        return Layout(name, nvlm_d.rows(keeps_dummy_heads=name == "NVLM_D_dummy_heads"))
    return Layout(name, internvl_chat.rows(published))


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint folder, with native names in the newer spelling."""

    folder: HfFolder
    family: Family
    config: Mapping[str, Any]
    """The native `config.json`."""
    layout: Layout
    holder: Mapping[str, tuple[str, int]]
    """For each native name: the published tensor that holds it, and which of its parts it is."""
    unknown: tuple[str, ...]
    """Published names that the layout does not know."""

    @property
    def spec(self) -> LanguageBodySpec:
        """Sizes of the language body."""
        return language_body_spec(dict(self.config))

    def published_name(self, key: str) -> str:
        """Return the name of the tensor in the files that holds a native one."""
        return self.holder[key][0]

    def read(self, key: str) -> torch.Tensor:
        """Read one native tensor; raises `ValueError` naming file and key when it cannot be read."""
        published, part = self.holder[key]
        return self._split(published, self.folder.read(published))[part]

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a native tensor's shape from the file's header."""
        published, part = self.holder[key]
        whole = torch.empty(self.folder.shape(published), device="meta")
        return tuple(self._split(published, whole)[part].shape)

    def dtype(self, key: str) -> torch.dtype:
        """Return a native tensor's dtype from the file's header."""
        return self.folder.dtype(self.holder[key][0])

    def _split(self, published: str, tensor: torch.Tensor) -> Sequence[torch.Tensor]:
        found = next(row for row in self.layout.rows if row.native_names(published))
        try:
            parts = found.split(tensor, self.config)
            if len(parts) != len(found.native):  # `chunk` gives fewer parts of a tensor that is too small
                raise RuntimeError(f"expected {len(found.native)} parts, found {len(parts)}")
            return parts
        except RuntimeError as error:
            raise ValueError(
                f"{self.folder.file_of[published]}: tensor {published} of shape {tuple(tensor.shape)} does "
                f"not hold what config.json says ({error})"
            ) from None


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a Hugging Face checkpoint of any known layout.

    Raises `ValueError` naming the file for whatever is missing, damaged, or of an architecture that is not
    supported.
    """
    folder = open_hf_folder(path)
    family_of_hf_config(folder.config, where=str(path / "config.json"))
    image_token_id = None
    if not is_native(folder.config):
        image_token_id = token_id_in_files(path, IMAGE_TOKENS[folder.config["model_type"]])
    return checkpoint_of(folder, image_token_id=image_token_id)


def checkpoint_of(folder: HfFolder, *, image_token_id: int | None) -> Checkpoint:
    """Describe an open folder; `image_token_id` is needed where the layout is not native."""
    family = family_of_hf_config(folder.config, where=str(folder.path / "config.json"))
    model_type = folder.config["model_type"]
    keys = list(folder.file_of)
    name: LayoutName = "native_new" if native.is_new(keys) else "native_old"
    if model_type == "internvl_chat":
        name = "internvl_chat"
    elif model_type == "NVLM_D":
        name = "NVLM_D_dummy_heads" if nvlm_d.has_dummy_weights(folder, folder.config) else "NVLM_D"
    config = native_config(
        folder.config, image_token_id=image_token_id, keeps_dummy_heads=name == "NVLM_D_dummy_heads"
    )
    layout = layout_named(name, family, folder.config)
    holder: dict[str, tuple[str, int]] = {}
    unknown = []
    for key in keys:
        names = layout.native_names(key)
        if names is None:
            unknown.append(key)
        else:
            for part, native_name in enumerate(names):
                if native_name in holder:
                    raise ValueError(
                        f"{folder.path}: {holder[native_name][0]} and {key} are the same tensor, "
                        f"{native_name}; expected it once"
                    )
                holder[native_name] = (key, part)
    return Checkpoint(
        folder=folder, family=family, config=config, layout=layout, holder=holder, unknown=tuple(unknown)
    )


def is_native(published: Mapping[str, Any]) -> bool:
    """Tell whether a config is one of transformers' own classes."""
    return published.get("model_type") not in IMAGE_TOKENS


def native_config_of(path: Path) -> dict[str, Any]:
    """Return the native `config.json` of a folder in any layout; weights need not be there.

    Only the weights of NVLM-D say whether its dummy heads can be left out: here they are. Raises `ValueError`
    when the folder's files do not describe a model that the native classes compute.
    """
    published = read_json_object(path / "config.json")
    if is_native(published):
        return published
    image_token_id = token_id_in_files(path, IMAGE_TOKENS[published["model_type"]])
    return native_config(published, image_token_id=image_token_id)


def native_config(
    published: Mapping[str, Any], *, image_token_id: int | None, keeps_dummy_heads: bool = False
) -> dict[str, Any]:
    """Return the native config of a published one; `image_token_id` is needed where it is not native."""
    if is_native(published):
        return dict(published)
    assert image_token_id is not None
    if published["model_type"] == "NVLM_D":
        return nvlm_d.native_config(
            published, image_token_id=image_token_id, keeps_dummy_heads=keeps_dummy_heads
        )
    return internvl_chat.native_config(published, image_token_id=image_token_id)


def token_id_in_files(path: Path, token: str) -> int:
    """Return the id of an added token from a folder's tokenizer files, without building a tokenizer.

    Raises `ValueError` when no file names the token.
    """
    for added in _added_tokens(path):
        if token in added:
            return added[token]
    raise ValueError(
        f"{path}: none of added_tokens.json, tokenizer_config.json and tokenizer.json has the token {token!r}"
    )


def _added_tokens(path: Path) -> Iterator[dict[str, int]]:
    plain = path / "added_tokens.json"
    if plain.is_file():
        yield read_json_object(plain)
    config = path / "tokenizer_config.json"
    if config.is_file():
        decoder = read_json_object(config).get("added_tokens_decoder") or {}
        yield {entry["content"]: int(number) for number, entry in decoder.items()}
    whole = path / "tokenizer.json"
    if whole.is_file():
        yield _added_in_tokenizer_json(whole)


def _added_in_tokenizer_json(path: Path) -> dict[str, int]:
    entries = read_json_object(path).get("added_tokens") or []
    return {entry["content"]: entry["id"] for entry in entries}


def published_tensors(
    layout: Layout, config: Mapping[str, Any], keys: Sequence[str], source: TensorSource
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (published name, tensor) of a model whose native tensors `keys` are in `source`: the way back.

    Raises `ValueError` for a native name that the layout does not know.
    """
    done: set[str] = set()
    for key in keys:
        found = layout.row_of_native(key)
        if found is None:
            raise ValueError(f"the layout {layout.name} has no place for the tensor {key}")
        row, published = found
        if published not in done:
            done.add(published)
            names = row.native_names(published)
            assert names is not None
            yield published, row.join([source.read(name) for name in names], config)
