import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText

from genrecal_mcore.data import RenderedSample, load_processor
from genrecal_mcore.models import use_packed_attention
from genrecal_mcore.models.vision import scatter_features

DEMO = Path(__file__).parents[2] / "examples" / "demo"
ATOL_FP32_LOSS = 1e-5  # worst seen 5e-7 over 5 seeds


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(DEMO))
    yield importlib.import_module("train_tiny_models")
    for name in ("train_tiny_models", "prepare_data", "tiny_models"):
        sys.modules.pop(name, None)


def record(question: str, answer: str) -> dict:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": question, "image": "0.png", "conversations": turns}


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_answer_loss_of_packed_samples_is_the_mean_over_their_answer_tokens(
    script: ModuleType, role: str
) -> None:
    folder = DEMO / f"{role}_hf"
    processor = load_processor(folder)
    samples = [
        script.render(processor, record(question, answer), script.IMAGE_SIZE)
        for question, answer in (("what shape is it?", "circle"), ("is it red?", "no, it is a teal circle."))
    ]
    alone = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    packed = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    use_packed_attention(packed.model.language_model.config)
    hidden_size = alone.config.get_text_config().hidden_size
    features = [
        torch.randn(sum(s.features_per_item), hidden_size, generator=torch.Generator().manual_seed(seed))
        for seed, s in enumerate(samples)
    ]
    losses = [ce_sum(alone, s, f) for s, f in zip(samples, features, strict=True)]
    expected = torch.stack(losses).sum() / sum(s.num_answer_tokens for s in samples)

    found = script.answer_loss(packed, processor, samples, torch.cat(features))

    torch.testing.assert_close(found, expected, atol=ATOL_FP32_LOSS, rtol=0)


def ce_sum(model: torch.nn.Module, sample: RenderedSample, features: torch.Tensor) -> torch.Tensor:
    ids = sample.input_ids[None]
    embeddings = model.get_input_embeddings()(ids)
    embeddings = scatter_features(embeddings, ids, features, model.config.image_token_id)
    positions = sample.position_ids.unsqueeze(-2)
    hidden = model.model.language_model(inputs_embeds=embeddings, position_ids=positions).last_hidden_state
    ((start, end),) = sample.answer_spans
    return F.cross_entropy(model.lm_head(hidden[0, start - 1 : end - 1]), ids[0, start:end], reduction="sum")
