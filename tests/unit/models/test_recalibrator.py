import pytest
import torch
from transformers import LlamaConfig, Qwen2Config
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

from genrecal_mcore.models import Packing, Recalibrator, initialise_recalibrator

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 31,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def text_config(kind: str):
    if kind == "qwen2_vl":
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]}
        return Qwen2VLTextConfig(**SIZES, rope_parameters=rope)
    return {"qwen2": Qwen2Config, "llama": LlamaConfig}[kind](**SIZES)


def make(kind: str, seed: int = 0) -> Recalibrator:
    recalibrator = Recalibrator(text_config(kind), teacher_hidden_size=17, num_layers=2)
    initialise_recalibrator(recalibrator, std=0.2, seed=seed)
    return recalibrator


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen2_vl"])
def test_output_has_the_teachers_size_and_is_causal(kind: str) -> None:
    torch.manual_seed(0)
    recalibrator = make(kind)
    student, teacher = torch.randn(3, 24), torch.randn(4, 17)
    source = torch.tensor([0, 1, 3, 4, 2, 5, 6])
    packing = Packing.of((0, 4, 7), torch.device("cpu"))
    out = recalibrator(student, teacher, source, packing)
    assert out.shape == (7, 17)
    changed = teacher.clone()
    changed[1] += 1.0  # row 4 of the concatenation: the last position of the first sequence
    again = recalibrator(student, changed, source, packing)
    torch.testing.assert_close(again[:3], out[:3], rtol=0, atol=0)
    torch.testing.assert_close(again[4:], out[4:], rtol=0, atol=0)
    assert (again[3] - out[3]).abs().max() > 1e-3


def test_parameter_names_are_those_of_the_delivered_file() -> None:
    prefixes = {name.split(".")[0] for name, _ in make("qwen2_vl").named_parameters()}
    assert prefixes == {"rec_proj_pre", "rec_body", "rec_proj_post", "rec_norm"}
    assert "rec_body.layers.1.mlp.down_proj.weight" in dict(make("qwen2_vl").named_parameters())


def test_initialisation_depends_on_the_seed_alone() -> None:
    first, again, other = make("qwen2", 3), make("qwen2", 3), make("qwen2", 4)
    torch.testing.assert_close(first.rec_proj_pre.weight, again.rec_proj_pre.weight, rtol=0, atol=0)
    assert (first.rec_proj_pre.weight - other.rec_proj_pre.weight).abs().max() > 0.01


def test_unknown_student_block_is_refused_by_name() -> None:
    config = text_config("qwen2")
    config.model_type = "mamba"
    with pytest.raises(
        ValueError, match="no decoder block for a student of model_type 'mamba'; expected one of"
    ):
        Recalibrator(config, teacher_hidden_size=17, num_layers=2)
