"""Describes a converted teacher: the `teacher.json` of a checkpoint folder and where its parts lie.

`checkpoint_tools/hf2mcore.py` writes it; `models` and `data` read it. The folder:

    language/   mcore torch_dist checkpoint, loads at any tp x pp
    vision/     model.safetensors (tower and projector) and config.json (the whole native config)
    head/       model.safetensors with one tensor, `weight` [v, h_t]
    tokenizer/  tokenizer and image-processor files
    teacher.json
"""

import json
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from genrecal_mcore.config.family import Family, family_of_hf_folder

MANIFEST_NAME = "teacher.json"
FORMAT_VERSION: Literal[1] = 1
LayoutName = Literal["native_old", "native_new", "internvl_chat", "NVLM_D", "NVLM_D_dummy_heads"]


class LanguageBodySpec(BaseModel):
    """Sizes and switches of a decoder-only language body (Qwen2 or Llama shape)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    norm_epsilon: float
    rotary_base: float
    max_position_embeddings: int
    qkv_bias: bool
    tied_embeddings: bool
    mrope_section: tuple[int, ...] | None = None

    def check_divisible(
        self,
        *,
        tp: int,
        pp: int,
        layers_per_stage: tuple[int, ...] | None = None,
        options: str = "mesh.teacher.",
    ) -> None:
        """Raise one `ValueError` that lists every size which tp or pp does not divide.

        With `layers_per_stage`, which has pp entries, pp need not divide the layers, but they must add up to
        them. `options`: what stands before `tp` and `pp` where they are set.
        """
        rules = [
            ("attention heads", self.num_attention_heads, "tp", tp),
            ("key-value heads", self.num_query_groups, "tp", tp),
            ("FFN channels", self.ffn_hidden_size, "tp", tp),
        ]
        if layers_per_stage is None:
            rules.insert(0, ("layers", self.num_layers, "pp", pp))
        problems = [
            f"the teacher has {count} {what}, which {options}{axis} ({degree}) does not divide"
            for what, count, axis, degree in rules
            if count % degree
        ]
        if problems:
            problems.append("choose degrees that divide them")
        if layers_per_stage is not None and sum(layers_per_stage) != self.num_layers:
            problems.append(
                f"{options}layers_per_stage {list(layers_per_stage)} adds up to {sum(layers_per_stage)}, but "
                f"the teacher has {self.num_layers} layers; give each of them to one stage"
            )
        if problems:
            raise ValueError("; ".join(problems))


class TeacherManifest(BaseModel):
    """The content of `teacher.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    family: Family
    dtype: Literal["float32", "bfloat16", "float16"]
    """Name of the torch dtype of every stored tensor."""
    source: str
    """Name of the Hugging Face folder it was converted from."""
    source_layout: LayoutName
    """How the source's files name and pack their tensors (see `layouts`)."""
    language: LanguageBodySpec
    digests: dict[str, str]
    """sha256 of each file of the folder, by path relative to the folder."""
    verified: tuple[str, ...] = ()
    """Names of the gates that this conversion passed."""

    def digest(self) -> str:
        """Return one sha256 over the digests of all files: the identity of the teacher."""
        return sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()


def load_teacher_manifest(folder: Path) -> TeacherManifest:
    """Read `folder/teacher.json`.

    Raises `ValueError` when the file is missing, is not JSON, or lacks fields of `TeacherManifest`.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(
            f"teacher.checkpoint: {path} does not exist; "
            "expected a folder written by checkpoint_tools/hf2mcore.py"
        )
    try:
        return TeacherManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors())
        raise ValueError(f"{path} is not a valid teacher description: {problems}") from None


def validate_teacher_folder(folder: Path) -> TeacherManifest:
    """Return the manifest of a teacher folder whose files are all there and of the family that it names.

    Files are looked for by name and not hashed, which takes minutes at full size. Raises
    `ValueError` naming what is missing or contradictory.
    """
    manifest = load_teacher_manifest(folder)
    missing = [name for name in manifest.digests if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"teacher.checkpoint: {folder} lacks {len(missing)} of its {len(manifest.digests)} files, "
            f"e.g. {missing[0]}; convert it again"
        )
    found = family_of_hf_folder(folder / "vision")
    if found != manifest.family:
        raise ValueError(
            f"teacher.checkpoint: {folder / MANIFEST_NAME} says family {manifest.family.value}, but "
            f"{folder / 'vision' / 'config.json'} is of family {found.value}; convert it again"
        )
    return manifest


def sha256_of(path: Path) -> str:
    """Return the digest of a file, as `TeacherManifest.digests` and checkpoints of runs hold it."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
