"""NVLM-D: InternVL's tiles, each with a tag of plain text before it, in Qwen2's ChatML.

Source: `nvlm_d.py` of vLLM; `_get_tile_tags` in `examples/multimodal/model.py` of Megatron-LM.
"""

from genrecal_mcore.data.chat import ChatFormat
from genrecal_mcore.data.families import internvl
from genrecal_mcore.data.families.record import FamilyRecord

CHAT = ChatFormat(
    system="You are a helpful assistant.",  # of the Qwen2 chat template that its tokenizer has
    image_start="<Image>",
    image_end="</Image>",
    image_token="<|vision_pad|>",
    after_image="\n",
    tile_tag="<tile_{}>",
    last_tile_tag="<tile_global_thumbnail>",
)

RECORD = FamilyRecord(
    chat=lambda _: CHAT,
    image_tokens=internvl.image_tokens,
    position_ids=internvl.position_ids,
)
