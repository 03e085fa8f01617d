"""Gate L0: a published model at full size, on meta tensors, against the tables, there and back."""

import math
from pathlib import Path
from typing import Any

import torch

from checkpoint_tools.engine import OnMeta, merged_shape, plan_conversion
from checkpoint_tools.verification.outcome import Outcome
from checkpoint_tools.verification.tiny import original_model
from genrecal_mcore.layouts import HfFolder, published_tensors
from genrecal_mcore.layouts.checkpoint import Checkpoint, checkpoint_of
from genrecal_mcore.layouts.published_models import PUBLISHED_MODELS, PublishedModel

Shapes = dict[str, tuple[int, ...]]


class MetaFolder(HfFolder):
    """A checkpoint folder that is not there: names and shapes, and zeros that take no memory."""

    def __init__(self, name: str, config: dict[str, Any], shapes: Shapes) -> None:
        super().__init__(path=Path(name), config=config, file_of=dict.fromkeys(shapes, Path(name)))
        object.__setattr__(self, "shapes", shapes)

    def read(self, key: str) -> torch.Tensor:
        """Return one zero seen in every place."""
        return torch.zeros(()).expand(self.shapes[key])

    def read_rows(self, key: str, start: int, end: int) -> torch.Tensor:
        """Return rows of `read`."""
        return self.read(key)[start:end]

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape."""
        return self.shapes[key]


def check_names_and_shapes(name: str) -> Outcome:
    """Pass L0 for a published model, and count its parameters; one table serves both roles."""
    model = PUBLISHED_MODELS[name]
    try:
        count = _count_parameters(name, model)
    except ValueError as error:
        return Outcome(gate="L0", model=name, role="both", passed=False, detail=str(error))
    passed = model.num_parameters in (None, count)
    detail = f"{count:,} parameters" + (", as published" if model.num_parameters == count else "")
    if not passed:
        detail += f" instead of the published {model.num_parameters:,}"
    return Outcome(gate="L0", model=name, role="both", passed=passed, detail=detail)


def _count_parameters(name: str, model: PublishedModel) -> int:
    """Raise `ValueError` where the published module and the tables differ; return what a native model has."""
    with torch.device("meta"):
        original = original_model(model)
    shapes = {key: tuple(tensor.shape) for key, tensor in original.state_dict().items()}
    if model.config["model_type"].startswith("qwen2"):
        shapes = _qwen2_files(shapes, is_tied=model.config["tie_word_embeddings"])
    checkpoint = checkpoint_of(MetaFolder(name, model.config, shapes), image_token_id=model.image_token_id)
    plan = plan_conversion(checkpoint)
    for entry in plan.entries:
        merged_shape(entry, plan)
    _check_way_back(checkpoint, plan.keys, shapes)
    return sum(math.prod(checkpoint.shape(key)) for key in plan.keys)


def _check_way_back(checkpoint: Checkpoint, keys: tuple[str, ...], expected: Shapes) -> None:
    back = published_tensors(checkpoint.layout, checkpoint.config, keys, OnMeta(checkpoint))
    found = {name: tuple(tensor.shape) for name, tensor in back}
    different = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
    if different:
        raise ValueError(
            f"{len(different)} tensors differ on the way back, e.g. {different[0]}: "
            f"{found.get(different[0])} instead of {expected.get(different[0])}"
        )


def _qwen2_files(shapes: Shapes, *, is_tied: bool) -> Shapes:
    """Return the names in Qwen's files for those in memory: written out here, apart from the tables."""
    named = {}
    for key, shape in shapes.items():
        if key.startswith("model.visual."):
            named[key.removeprefix("model.")] = shape
        elif key != "lm_head.weight":
            named[key.replace("model.language_model.", "model.")] = shape
        elif not is_tied:
            named[key] = shape
    return named
