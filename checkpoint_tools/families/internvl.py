"""InternVL in its native layout, with a Qwen2 or a Llama body, in both spellings."""

from checkpoint_tools.families.record import FamilyTable

TABLE = FamilyTable(
    old_to_new=(
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("vision_tower.", "model.vision_tower."),
    ),
    vision_prefixes=("model.vision_tower.", "model.multi_modal_projector."),
)
