"""Names the model families and recognises one from a Hugging Face `config.json`.

What a family means for rendering stands in `data.families`, for modules in `models`, for checkpoint files in
`layouts`: each room keeps its own table under these names.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any


class Family(StrEnum):
    """A model family: one chat format, one image-token scheme, one checkpoint layout."""

    QWEN2_VL = "qwen2_vl"
    QWEN2_5_VL = "qwen2_5_vl"
    INTERNVL = "internvl"
    NVLM_D = "nvlm_d"


_FAMILY_OF_MODEL_TYPE = {
    "qwen2_vl": Family.QWEN2_VL,
    "qwen2_5_vl": Family.QWEN2_5_VL,
    "internvl": Family.INTERNVL,
    "internvl_chat": Family.INTERNVL,
    "nvlm_d": Family.NVLM_D,
    "NVLM_D": Family.NVLM_D,
}
"""`model_type` of a published or native config."""


def family_of_hf_config(hf_config: Mapping[str, Any], *, where: str) -> Family:
    """Return the family that a parsed `config.json` belongs to.

    Raises `ValueError` naming `where`, the architecture found and the families supported.
    """
    model_type = hf_config.get("model_type")
    family = _FAMILY_OF_MODEL_TYPE.get(str(model_type))
    if family is None:
        raise ValueError(
            f"{where}: model_type {model_type!r} (architectures {hf_config.get('architectures')}) "
            f"is not supported; expected one of: {', '.join(_FAMILY_OF_MODEL_TYPE)}"
        )
    return family


def family_of_hf_folder(folder: Path) -> Family:
    """Return the family of a Hugging Face checkpoint folder, read from its `config.json`.

    Raises `ValueError` when the file is missing, is not JSON, or names an architecture that is not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a Hugging Face checkpoint folder")
    try:
        hf_config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return family_of_hf_config(hf_config, where=str(path))
