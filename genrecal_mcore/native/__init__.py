"""The families as transformers' own classes: built from a config, loaded from any published layout.

Nothing from a checkpoint is ever run. Start with `classes`.
"""

from genrecal_mcore.native.classes import build_model, model_config, native_class, native_shapes
from genrecal_mcore.native.loading import load_native_model

__all__ = ["build_model", "load_native_model", "model_config", "native_class", "native_shapes"]
