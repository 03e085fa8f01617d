import pytest
import torch

from checkpoint_tools.decoder import decoder_entries
from checkpoint_tools.transforms import fuse_gate_up, fuse_qkv, merge_qkv, rename, split_qkv
from genrecal_mcore.config import LanguageBodySpec

HIDDEN_SIZE, HEAD_DIM, NUM_LAYERS = 7, 5, 3

# (attention heads, query groups): grouped, one group for all, a group for each.
HEADS = [
    pytest.param((6, 2), id="grouped"),
    pytest.param((4, 1), id="multi-query"),
    pytest.param((3, 3), id="multi-head"),
]


def body_spec(*, num_heads: int = 6, num_groups: int = 2, qkv_bias: bool = True) -> LanguageBodySpec:
    return LanguageBodySpec(
        hidden_size=HIDDEN_SIZE,
        num_layers=NUM_LAYERS,
        num_attention_heads=num_heads,
        num_query_groups=num_groups,
        head_dim=HEAD_DIM,
        ffn_hidden_size=11,
        vocab_size=13,
        norm_epsilon=1e-6,
        rotary_base=1e4,
        max_position_embeddings=17,
        qkv_bias=qkv_bias,
        tied_embeddings=False,
    )


def numbered_qkv(num_heads: int, num_groups: int, trailing: tuple[int, ...]) -> list[torch.Tensor]:
    """Return q, k and v whose elements all differ, across the three too."""
    shapes = [(heads * HEAD_DIM, *trailing) for heads in (num_heads, num_groups, num_groups)]
    sizes = [torch.Size(shape).numel() for shape in shapes]
    parts = torch.arange(sum(sizes), dtype=torch.float32).split(sizes)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def interleaved_by_group(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, num_groups: int
) -> torch.Tensor:
    """Stack head by head: for each group its query heads, its key head, its value head."""
    heads_per_group = query.shape[0] // HEAD_DIM // num_groups
    heads = []
    for group in range(num_groups):
        for head in range(group * heads_per_group, (group + 1) * heads_per_group):
            heads.append(query[head * HEAD_DIM : (head + 1) * HEAD_DIM])
        heads.append(key[group * HEAD_DIM : (group + 1) * HEAD_DIM])
        heads.append(value[group * HEAD_DIM : (group + 1) * HEAD_DIM])
    return torch.cat(heads)


@pytest.mark.parametrize("trailing", [(HIDDEN_SIZE,), ()], ids=["weight", "bias"])
@pytest.mark.parametrize("heads", HEADS)
def test_qkv_is_interleaved_by_query_group(heads: tuple[int, int], trailing: tuple[int, ...]) -> None:
    num_heads, num_groups = heads
    parts = numbered_qkv(num_heads, num_groups, trailing)
    merged = merge_qkv(parts, body_spec(num_heads=num_heads, num_groups=num_groups), None)
    assert torch.equal(merged, interleaved_by_group(*parts, num_groups=num_groups))


@pytest.mark.parametrize("trailing", [(HIDDEN_SIZE,), ()], ids=["weight", "bias"])
@pytest.mark.parametrize("heads", HEADS)
def test_splitting_a_merged_qkv_gives_its_parts(heads: tuple[int, int], trailing: tuple[int, ...]) -> None:
    num_heads, num_groups = heads
    spec = body_spec(num_heads=num_heads, num_groups=num_groups)
    parts = numbered_qkv(num_heads, num_groups, trailing)
    for found, expected in zip(split_qkv(merge_qkv(parts, spec, None), spec), parts, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("heads", HEADS)
def test_merging_a_split_qkv_gives_it_again(heads: tuple[int, int]) -> None:
    num_heads, num_groups = heads
    spec = body_spec(num_heads=num_heads, num_groups=num_groups)
    merged = torch.arange(float((num_heads + 2 * num_groups) * HEAD_DIM * HIDDEN_SIZE)).view(-1, HIDDEN_SIZE)
    assert torch.equal(merge_qkv(split_qkv(merged, spec), spec, None), merged)


def test_gate_lies_before_up_and_both_come_back() -> None:
    gate, up = torch.arange(30.0).view(2, 3, 5).unbind()
    entry = fuse_gate_up("fc1", "gate", "up")
    merged = entry.merge([gate, up], body_spec(), None)
    assert torch.equal(merged[:3], gate)
    assert torch.equal(merged[3:], up)
    for found, expected in zip(entry.split(merged, body_spec()), (gate, up), strict=True):
        assert torch.equal(found, expected)


def test_a_renamed_tensor_is_unchanged_both_ways() -> None:
    tensor = torch.arange(15.0).view(3, 5)
    entry = rename("mcore.name", "hf.name")
    assert (entry.mcore, entry.hf) == ("mcore.name", ("hf.name",))
    assert torch.equal(entry.merge([tensor], body_spec(), None), tensor)
    (back,) = entry.split(tensor, body_spec())
    assert torch.equal(back, tensor)


def test_the_layer_number_goes_into_every_name_of_an_entry() -> None:
    entry = fuse_qkv("decoder.{layer}.qkv", "layers.{layer}.q", "layers.{layer}.k", "layers.{layer}.v")
    at_layer = entry.at_layer(12)
    assert at_layer.mcore == "decoder.12.qkv"
    assert at_layer.hf == ("layers.12.q", "layers.12.k", "layers.12.v")


@pytest.mark.parametrize("qkv_bias", [False, True], ids=["no-bias", "bias"])
def test_a_decoder_has_each_name_once_and_biases_only_where_the_model_has_them(qkv_bias: bool) -> None:
    entries = decoder_entries(body_spec(qkv_bias=qkv_bias))
    mcore_names = [entry.mcore for entry in entries]
    hf_names = [name for entry in entries for name in entry.hf]
    assert len(set(mcore_names)) == len(mcore_names) == 2 + NUM_LAYERS * (7 if qkv_bias else 6)
    assert len(set(hf_names)) == len(hf_names) == 2 + NUM_LAYERS * (12 if qkv_bias else 9)
    assert any(name.endswith("q_proj.bias") for name in hf_names) == qkv_bias
