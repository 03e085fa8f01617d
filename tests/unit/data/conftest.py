from pathlib import Path

import pytest

from genrecal_mcore.data.processor import ModelProcessor, load_processor
from tests.helpers.tiny_models import make_tiny_model

KINDS = ("internvl_qwen2", "qwen2_vl")


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give one tiny checkpoint folder of each family; tests that change one copy it."""
    root = tmp_path_factory.mktemp("tiny")
    return {kind: make_tiny_model(root / kind, kind, seed=1) for kind in KINDS}


@pytest.fixture(params=KINDS)
def processor(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> ModelProcessor:
    """Give the processor of each family in turn."""
    return load_processor(model_folders[request.param])
