"""The native layouts of transformers: names as in memory, and the older ones that most files have."""

from genrecal_mcore.layouts.rows import renamed

NEW = (renamed("{rest}", "{rest}"),)

QWEN2_VL_OLD = (
    renamed("visual.{rest}", "model.visual.{rest}"),
    renamed("model.{rest}", "model.language_model.{rest}"),
    renamed("lm_head.{p}", "lm_head.{p}"),
)

INTERNVL_OLD = (
    renamed("language_model.model.{rest}", "model.language_model.{rest}"),
    renamed("language_model.lm_head.{p}", "lm_head.{p}"),
    renamed("multi_modal_projector.{rest}", "model.multi_modal_projector.{rest}"),
    renamed("vision_tower.{rest}", "model.vision_tower.{rest}"),
)


def is_new(keys: list[str]) -> bool:
    """Tell whether a checkpoint's names are those in memory."""
    return any(key.startswith("model.language_model.") for key in keys)
