from pathlib import Path

import pytest
import torch

from checkpoint_tools.conversion import convert_to_mcore
from genrecal_mcore.models import load_teacher_embedding, with_embeddings
from genrecal_mcore.native import load_native_model
from tests.helpers.tiny_models import make_tiny_model


@pytest.mark.parametrize("kind", ["internvl_llama", "qwen2_vl_tied"])
def test_the_embedding_of_a_converted_teacher_is_its_sources(kind: str, tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path / "hf", kind, seed=3)
    convert_to_mcore(source, tmp_path / "teacher")
    expected = load_native_model(source, dtype=torch.float32).get_input_embeddings().weight.detach()
    torch.testing.assert_close(load_teacher_embedding(tmp_path / "teacher"), expected, rtol=0, atol=0)


def test_embeddings_take_the_size_of_the_features_whose_place_they_take() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 7, generator=generator) * torch.arange(1, 6)[:, None]
    embeddings = 0.02 * torch.randn(3, 7, generator=generator)
    embeddings[2] = 0.0
    rows = torch.tensor([4, 1, 2])
    out = with_embeddings(features, rows, embeddings)
    torch.testing.assert_close(out[[0, 3]], features[[0, 3]], rtol=0, atol=0)
    torch.testing.assert_close(out[[4, 1]].norm(dim=-1), features[[4, 1]].norm(dim=-1))
    torch.testing.assert_close(
        torch.nn.functional.cosine_similarity(out[[4, 1]], embeddings[:2]), torch.ones(2)
    )
    assert (out[2] == 0).all()
