"""Times a student body's forward and backward pass over ragged samples, packed against padded.

Example: python -m benchmarks.packing --rounds 5
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Annotated

import torch
import typer
from transformers import Qwen2Config, Qwen2Model

from benchmarks.ragged import RAGGED
from benchmarks.results import Benchmark, Target, show
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.data.order import deal_by_length
from genrecal_mcore.models import Packing, use_packed_attention

SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 8,
}
PADDED, PACKED = "padded to the longest", "packed, dealt by length"
LEAST_RATIO = 1.5
Microbatch = Sequence[torch.Tensor]
"""Embeddings `[s, h]` of each sample."""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is run; medians are shown.")] = 5,
    samples: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 32,
    microbatches: Annotated[int, typer.Option(min=1, help="Microbatches of a step.")] = 4,
) -> None:
    """Print seconds of a step for each way, and the ratio of samples a second."""
    show(measure(rounds=rounds, samples=samples, microbatches=microbatches), table_console())


def measure(*, rounds: int, samples: int = 32, microbatches: int = 4) -> Benchmark:
    """Time a step each way `rounds` times, in turn."""
    torch.manual_seed(0)
    draw = random.Random(0)
    texts = (spread(draw, *tokens, num=samples) for tokens in (RAGGED.question, RAGGED.answer))
    lengths = [question + answer for question, answer in zip(*texts, strict=True)]
    step = [torch.randn(length, SIZES["hidden_size"]) for length in lengths]
    in_turn = [step[i::microbatches] for i in range(microbatches)]
    by_length = [[step[i] for i in unit] for unit in deal_by_length(tuple(lengths), num_units=microbatches)]
    padded, packed = body(), body()
    packed.load_state_dict(padded.state_dict())
    use_packed_attention(packed.config)
    ways: dict[str, Callable[[], float]] = {
        PADDED: lambda: seconds(padded, in_turn, padded_pass),
        "packed": lambda: seconds(packed, in_turn, packed_pass),
        PACKED: lambda: seconds(packed, by_length, packed_pass),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            measured[name].append(way())
    medians = {name: statistics.median(times) for name, times in measured.items()}
    ratios = {name: medians[PADDED] / median for name, median in medians.items()}
    return Benchmark(
        title="Packed against padded",
        command=f"python -m benchmarks.packing --rounds {rounds}",
        about=(
            f"A student body's forward and backward pass over {samples} samples of {min(lengths)} to "
            f"{max(lengths)} tokens, their lengths evenly spread and dealt at random, in {microbatches} "
            f"microbatches, which padding makes {padding_factor(in_turn):.2f} times as large; medians of "
            f"{rounds}; relative difference of the gradients {gradient_difference(padded, packed):.1e}."
        ),
        header=("way", "seconds a step", "samples a second, against padded"),
        rows=[(name, f"{medians[name]:.2f}", f"{ratios[name]:.2f} x") for name in ways],
        targets=[
            Target(name="packed against padded", measured=ratios[PACKED], sense="at least", limit=LEAST_RATIO)
        ],
    )


def spread(draw: random.Random, least: int, most: int, *, num: int) -> list[int]:
    """Return lengths at even distances, in random order: a small sample that is no lucky one."""
    lengths = [least + (most - least) * (2 * i + 1) // (2 * num) for i in range(num)]
    draw.shuffle(lengths)
    return lengths


def padding_factor(microbatches: Sequence[Microbatch]) -> float:
    """Return positions of padded microbatches over tokens."""
    padded = sum(len(samples) * max(map(len, samples)) for samples in microbatches)
    return padded / sum(len(sample) for samples in microbatches for sample in samples)


def body() -> Qwen2Model:
    """Return a small Qwen2 body."""
    return Qwen2Model(Qwen2Config(**SIZES, attn_implementation="sdpa"))


def seconds(
    model: Qwen2Model, microbatches: Sequence[Microbatch], run: Callable[[Qwen2Model, Microbatch], None]
) -> float:
    """Return the time of a step, gradients summed over its microbatches."""
    model.zero_grad()
    started = time.perf_counter()
    for microbatch in microbatches:
        run(model, microbatch)
    return time.perf_counter() - started


def padded_pass(model: Qwen2Model, samples: Microbatch) -> None:
    """Pad on the right, as a plain loop does; under a causal mask padding changes nothing."""
    whole = torch.nn.utils.rnn.pad_sequence(list(samples), batch_first=True)  # [b, s, h]
    out = model(inputs_embeds=whole, use_cache=False).last_hidden_state
    loss = sum(out[i, : len(sample)].square().sum() for i, sample in enumerate(samples))
    loss.backward()


def packed_pass(model: Qwen2Model, samples: Microbatch) -> None:
    """Pack, as training does."""
    packing = Packing.of((0, *accumulate(map(len, samples))), torch.device("cpu"))
    out = model(
        inputs_embeds=torch.cat(list(samples))[None],  # [1, t, h]
        position_ids=packing.positions[None],
        use_cache=False,
        packing=packing,
    )
    out.last_hidden_state.square().sum().backward()


def gradient_difference(one: Qwen2Model, other: Qwen2Model) -> float:
    """Return the norm of the difference between two models' whole gradients, relative to the gradient's.

    Not tensor by tensor: that of a key's bias is zero but for rounding.
    """
    mine, theirs = (
        torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (one, other)
    )
    return float((mine - theirs).norm() / mine.norm())


if __name__ == "__main__":
    typer.run(main)
