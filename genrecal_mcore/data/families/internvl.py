"""InternVL: dynamic tiling with a thumbnail, a fixed number of tokens a tile, plain positions.

Source: `processing_internvl.py` and `convert_internvl_weights_to_hf.py` of transformers; `conversation.py`
and `dataset.py` of OpenGVLab/InternVL.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from genrecal_mcore.data.chat import ChatFormat
from genrecal_mcore.data.families.record import FamilyRecord, ImageTokens


def image_tokens(processor: Any, hf_config: dict[str, Any], size: tuple[int, int]) -> ImageTokens:
    """Return `image_seq_length` tokens for each tile that an image of `size` is cut into."""
    width, height = size
    num_tiles = processor.get_number_of_image_patches(height, width, {})
    return (int(hf_config["image_seq_length"]),) * num_tiles, None


def position_ids(length: int, images: Sequence[tuple[int, tuple[int, int] | None]]) -> torch.Tensor:
    """Return 0..s-1: image tokens count like any other."""
    del images
    return torch.arange(length)


NATIVE_CHAT = ChatFormat(
    system=None, image_start="<img>", image_end="</img>", image_token="<IMG_CONTEXT>", after_image="\n"
)

INTERNVL2_5_CHAT = replace(
    NATIVE_CHAT,
    system="你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
)

INTERNVL2_CHAT = replace(
    NATIVE_CHAT,
    system=(
        "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
        "英文名叫InternVL, 是一个有用无害的人工智能助手。"
    ),
    after_turn="",
)

TEMPLATES = {
    "internvl2_5": INTERNVL2_5_CHAT,
    "internlm2-chat": INTERNVL2_CHAT,
    "Hermes-2": INTERNVL2_CHAT,
}
"""`template` of a published config: the second and third differ in their makers' training data alone."""


def chat(published: dict[str, Any]) -> ChatFormat:
    """Return the format of a published config: the native one, or the one that `template` names.

    Source: `conversation.py` of OpenGVLab/InternVL. Raises `ValueError` for a template that is not known.
    """
    if published.get("model_type") != "internvl_chat":
        return NATIVE_CHAT
    template = str(published.get("template"))
    if template not in TEMPLATES:
        raise ValueError(
            f"config.json: template {template!r} is not supported; expected one of {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[template]


RECORD = FamilyRecord(
    chat=chat,
    image_tokens=image_tokens,
    position_ids=position_ids,
)
