"""Times the loss through the frozen head against whole logits in autograd and against Liger's chunked loss.

Example: python -m benchmarks.frozen_head --quick

Liger is in the optional group `bench`. Its chunked losses are plain torch; installed without its dependencies
it brings no triton: pip install --no-deps -c constraints.txt liger-kernel
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Annotated

import psutil
import torch
import typer

from benchmarks.results import Benchmark, Target, show
from genrecal_mcore.cli.console import table_console
from genrecal_mcore.losses import frozen_head_loss, reference_frozen_head_loss
from tests.helpers.live_memory import LiveMemory

VOCAB_SIZE = 152064
BUDGET_BYTES = 512 * 2**20
MIB = 2**20
OURS, WHOLE, LIGER = "ours", "whole logits", "Liger"
FEW_TOKENS = 256
SHAPES = tuple((tokens, hidden_size) for hidden_size in (512, 2048) for tokens in (FEW_TOKENS, 2048, 8192))
QUICK_SHAPES = ((FEW_TOKENS, 512), (2048, 512), (FEW_TOKENS, 2048))
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""Of values and of whole gradients, relative; in bfloat16 the other two ways round their logits."""
MOST_OF_WHOLE_TIME = {512: 0.9, 2048: 1.0}
MOST_OF_LIGER_TIME = 0.7
WHY_LIGER_IS_NEAR = (
    "Liger makes four products of t, h and v, ours three; where h is large they are nearly all of the time, "
    "and three quarters is what that gives"
)
MOST_OF_WHOLE_MEMORY, MEMORY_TOKENS = 0.05, 8192
MOST_FOR_TWICE_THE_TOKENS = 2.0
WHY_TWICE_TAKES_LONGER = (
    "chunks are of one size and each costs the same at every t, so what is above 2 is how evenly this "
    "machine ran"
)
GRADIENTS = 2
"""Matrices `[t, h]` beside the budget: the gradient as computed, and scaled."""
ROOM = 1.2
"""Memory that must be free before whole logits are tried, in terms of what they need."""

Result = tuple[torch.Tensor, torch.Tensor]
"""Value and gradient `[t, h]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Recalibrated and teacher rows `[t, h]`, labels `[t]`, head `[v, h]`."""

    recalibrated: torch.Tensor
    teacher: torch.Tensor
    labels: torch.Tensor
    head: torch.Tensor


Loss = Callable[[Inputs], torch.Tensor]
"""Gives the sum of CE and KL, both of weight 1."""


@dataclass(kw_only=True, slots=True)
class Measured:
    """One way at one shape."""

    name: str
    tokens: int
    hidden_size: int
    peak_bytes: float = 0.0
    fits: bool = True
    seconds: list[float] = field(default_factory=list)
    """The check's, then those of the other rounds."""

    @property
    def median(self) -> float:
        """Seconds of a forward and backward pass; nan where the way does not fit."""
        return statistics.median(self.seconds) if self.fits else math.nan


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is run; medians are shown.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the largest shapes.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Print seconds and peak memory of each way, and what of the others' time ours takes."""
    show(measure(rounds=rounds, quick=quick, device=device, dtype=dtype), table_console())


def measure(*, rounds: int, quick: bool = False, device: str = "cpu", dtype: str = "float32") -> Benchmark:
    """Check every way at every shape, which is the first round, then time them again in `rounds` - 1 others.

    A round goes through all shapes: a machine that slows down for minutes does so for each of them.

    Raises `RuntimeError` when values or gradients differ.
    """
    ways = {OURS: ours, WHOLE: whole_logits, LIGER: liger()}
    shapes = QUICK_SHAPES if quick else SHAPES
    draw = partial(make_inputs, device=torch.device(device), dtype=getattr(torch, dtype))
    measured, worst = [], 0.0
    with one_cpu_thread():
        for shape in shapes:
            found, difference = check(ways, draw(*shape), tolerance=TOLERANCE[dtype])
            measured += found
            worst = max(worst, difference)
        for shape in shapes * (rounds - 1):
            inputs = draw(*shape)
            for way in measured:
                if way.fits and (way.tokens, way.hidden_size) == shape:
                    way.seconds.append(run_and_time(ways[way.name], inputs)[1])
    options = f"{' --quick' if quick else ''} --device {device} --dtype {dtype}"
    return Benchmark(
        title=f"The loss through the frozen head, v = {VOCAB_SIZE}, {dtype}",
        command=f"python -m benchmarks.frozen_head --rounds {rounds}{options}",
        about=(
            f"CE and KL through one frozen head, forward and backward; medians of {rounds}; on a CPU "
            f"the seconds of one thread. Ours stays within {BUDGET_BYTES // MIB} MiB. Values and gradients "
            f"of the three differ by at most {worst:.1e}. Liger cannot be told that its student's head is "
            "frozen: it also computes, sums and keeps that gradient [v, h]. Where whole logits do not fit, "
            f"their memory is that of {FEW_TOKENS} tokens, scaled: each matrix of theirs has a row for each "
            "token."
        ),
        header=("t", "h", "way", "seconds", "ours against it", "peak extra memory in MiB"),
        rows=[row(way, of(measured, way, OURS)) for way in measured],
        targets=targets(measured, element_size=getattr(torch, dtype).itemsize),
    )


def make_inputs(tokens: int, hidden_size: int, *, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Draw rows near their teacher's; logits have a standard deviation of 2."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(num_rows: int) -> torch.Tensor:
        return torch.randn(num_rows, hidden_size, generator=generator, device=device)

    teacher = normal(tokens)
    return Inputs(
        recalibrated=(teacher + 0.3 * normal(tokens)).to(dtype).requires_grad_(),
        teacher=teacher.to(dtype),
        labels=torch.randint(VOCAB_SIZE, (tokens,), generator=generator, device=device),
        head=(normal(VOCAB_SIZE) * (2 / hidden_size**0.5)).to(dtype),
    )


def ours(inputs: Inputs) -> torch.Tensor:
    """Compute chunk by chunk, the gradient with the value."""
    return frozen_head_loss(
        inputs.recalibrated, inputs.teacher, inputs.labels, inputs.head, memory_budget_bytes=BUDGET_BYTES
    ).total


def whole_logits(inputs: Inputs) -> torch.Tensor:
    """Compute with both models' whole logits, the gradient by autograd."""
    ce, kl = reference_frozen_head_loss(inputs.recalibrated, inputs.teacher, inputs.labels, inputs.head)
    return ce.sum() + kl.sum()


def liger() -> Loss:
    """Return Liger's CE and generalised JSD at beta 0, which is KL(teacher || student), not compiled.

    Raises `ModuleNotFoundError` when the package is not installed.
    """
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is missing; run pip install --no-deps -c constraints.txt liger-kernel"
        ) from error
    mean_loss = LigerFusedLinearJSDLoss(weight_hard_loss=1.0, weight_soft_loss=1.0, beta=0.0, compiled=False)

    def compute(inputs: Inputs) -> torch.Tensor:
        mean = mean_loss(inputs.recalibrated, inputs.head, inputs.teacher, inputs.head, inputs.labels)
        return mean * len(inputs.labels)

    return compute


@contextmanager
def one_cpu_thread() -> Iterator[None]:
    """Compute with one thread on the CPU: its seconds hardly depend on what else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def check(ways: dict[str, Loss], inputs: Inputs, *, tolerance: float) -> tuple[list[Measured], float]:
    """Run each way that fits once; return their peak memory and the largest difference from ours."""
    tokens, hidden_size = inputs.recalibrated.shape
    measured, results = [], []
    for name, loss in ways.items():
        way = Measured(name=name, tokens=tokens, hidden_size=hidden_size)
        if name == WHOLE:
            _, few_bytes = run_and_watch(loss, first_rows(inputs, FEW_TOKENS))
            way.peak_bytes = few_bytes * tokens / FEW_TOKENS
            way.fits = tokens <= FEW_TOKENS or ROOM * way.peak_bytes < free_bytes(inputs.head.device)
        if way.fits:
            (result, duration), way.peak_bytes = run_and_watch(loss, inputs)
            way.seconds.append(duration)
            results.append(result)
        measured.append(way)
    worst = max(relative_difference(result, results[0]) for result in results[1:])
    if worst > tolerance:
        raise RuntimeError(
            f"t {tokens}, h {hidden_size}: values or gradients differ by {worst:.1e}, more than {tolerance:g}"
        )
    return measured, worst


def first_rows(inputs: Inputs, tokens: int) -> Inputs:
    """Return the same loss over fewer rows."""
    rows = inputs.recalibrated[:tokens].detach().requires_grad_()
    return replace(inputs, recalibrated=rows, teacher=inputs.teacher[:tokens], labels=inputs.labels[:tokens])


def run(loss: Loss, inputs: Inputs) -> Result:
    """Return the value, and the gradient for the recalibrated rows."""
    total = loss(inputs)
    total.backward()
    gradient, inputs.recalibrated.grad = inputs.recalibrated.grad, None
    assert gradient is not None
    return total.detach(), gradient


def run_and_watch(loss: Loss, inputs: Inputs) -> tuple[tuple[Result, float], float]:
    """Return the result with its seconds, and the most bytes that were alive at once beside the inputs."""
    device = inputs.head.device
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        timed = run_and_time(loss, inputs)
        return timed, torch.cuda.max_memory_allocated(device) - before
    known = (inputs.recalibrated, inputs.teacher, inputs.labels, inputs.head)
    with LiveMemory(known) as memory:
        timed = run_and_time(loss, inputs)
    return timed, memory.peak_bytes


def run_and_time(loss: Loss, inputs: Inputs) -> tuple[Result, float]:
    """Return the result, and the seconds of both passes: the thread's on a CPU, the clock's on a GPU."""
    if inputs.head.device.type == "cpu":
        start = time.process_time()
        result = run(loss, inputs)
        return result, time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = run(loss, inputs)
    torch.cuda.synchronize()
    return result, time.perf_counter() - start


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def relative_difference(one: Result, other: Result) -> float:
    """Return the larger of the relative differences of values and of whole gradients."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(one, other, strict=True))


def of(measured: Sequence[Measured], like: Measured, name: str) -> Measured:
    """Return another way at the same shape."""
    return next(
        way
        for way in measured
        if (way.name, way.tokens, way.hidden_size) == (name, like.tokens, like.hidden_size)
    )


def row(way: Measured, ours: Measured) -> tuple[str, ...]:
    """Return a row of the table."""
    times = (f"{way.median:.2f}", f"{ours.median / way.median:.2f} x") if way.fits else ("does not fit", "")
    return str(way.tokens), str(way.hidden_size), way.name, *times, f"{way.peak_bytes / MIB:.0f}"


def targets(measured: Sequence[Measured], *, element_size: int) -> list[Target]:
    """Return what ours was to reach, each at the shape where it comes off worst."""
    own = [way for way in measured if way.name == OURS]

    def time_ratios(name: str, ways: Sequence[Measured]) -> list[float]:
        others = [(way, of(measured, way, name)) for way in ways]
        return [way.median / other.median for way, other in others if other.fits]

    found = [
        at_most(f"time against whole logits, h = {size}", limit, ratios)
        for size, limit in MOST_OF_WHOLE_TIME.items()
        if (ratios := time_ratios(WHOLE, [way for way in own if way.hidden_size == size]))
    ]
    of_liger = time_ratios(LIGER, own)
    found.append(at_most("time against Liger", MOST_OF_LIGER_TIME, of_liger, reason=WHY_LIGER_IS_NEAR))
    of_twice = [
        (more.median / less.median) ** (1 / math.log2(more.tokens / less.tokens))
        for less, more in pairwise(own)
        if less.hidden_size == more.hidden_size
    ]
    found.append(
        at_most(
            "time of twice the tokens", MOST_FOR_TWICE_THE_TOKENS, of_twice, reason=WHY_TWICE_TAKES_LONGER
        )
    )
    beside = [GRADIENTS * way.tokens * way.hidden_size * element_size for way in own]
    shares = [(way.peak_bytes - size) / BUDGET_BYTES for way, size in zip(own, beside, strict=True)]
    found.append(at_most("peak extra memory beside gradients [t, h], against the budget", 1.0, shares))
    largest = [way for way in own if way.tokens == MEMORY_TOKENS]
    if largest:
        of_whole = [way.peak_bytes / of(measured, way, WHOLE).peak_bytes for way in largest]
        name = f"peak extra memory against whole logits, t = {MEMORY_TOKENS}"
        found.append(at_most(name, MOST_OF_WHOLE_MEMORY, of_whole))
    return found


def at_most(name: str, limit: float, ratios: Sequence[float], *, reason: str = "") -> Target:
    """Return a target for the largest of some ratios."""
    return Target(name=name, measured=max(ratios), sense="at most", limit=limit, reason=reason)


if __name__ == "__main__":
    typer.run(main)
