"""Qwen2-VL: hub files say `visual.*` and `model.*`, transformers says `model.visual.*`,
`model.language_model.*`.
"""

from checkpoint_tools.families.record import FamilyTable

TABLE = FamilyTable(
    old_to_new=(
        ("visual.", "model.visual."),
        ("model.", "model.language_model."),
        ("lm_head.", "lm_head."),
    ),
    vision_prefixes=("model.visual.",),
)
