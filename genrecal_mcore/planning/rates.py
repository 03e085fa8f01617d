"""How long an amount of each operation takes: assumed shares of a device's peaks, in one table, or measured.

Nothing else in a plan assumes a speed. A profile of the run (see `profile_record`) replaces what it measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from genrecal_mcore.parallel import Layout, MeshSpec
from genrecal_mcore.planning.costs import Cost, Op
from genrecal_mcore.planning.hardware import Hardware


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumption:
    """A share of a peak that is taken to be reached."""

    what: str
    share: float
    of: str
    source: str


DENSE = Assumption(
    what="decoder linears, heads, Recalibrator",
    share=0.45,
    of="peak flops",
    source="Megatron-LM's README: 44 % of A100's peak for GPT-3 on 1024, 41 to 48 % of H100's",
)
ATTENTION = Assumption(
    what="attention, forward and backward",
    share=0.35,
    of="peak flops",
    source="FlashAttention-2 (arXiv 2307.08691), section 4: up to 73 % of A100 forward, about 35 % of H100",
)
VISION = Assumption(
    what="vision towers, with their attention",
    share=0.40,
    of="peak flops",
    source="between the two above",
)
ELEMENTWISE = Assumption(
    what="elementwise passes, AdamW",
    share=0.80,
    of="memory bandwidth",
    source="BabelStream on A100 and H100: 85 to 92 % for long vectors",
)
COLLECTIVES = Assumption(
    what="collectives and transfers, in a node",
    share=0.75,
    of="a device's bandwidth in its node",
    source="nccl-tests: bus bandwidth of 230 to 240 GB/s of 300 on eight A100",
)
NETWORK = Assumption(
    what="collectives and transfers between nodes",
    share=0.75,
    of="a device's share of the network",
    source="nccl-tests over HDR and NDR: 80 to 92 %, less under other traffic",
)
ASSUMPTIONS = (DENSE, ATTENTION, VISION, ELEMENTWISE, COLLECTIVES, NETWORK)
UNCHARGED = (
    "launches of kernels and the work of the host; images, which other processes decode ahead; "
    "checkpoints; stragglers"
)
"""What assumed rates take to be hidden or rare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Seconds that one flop, byte, call or sample of each operation takes on one rank."""

    seconds_per: Mapping[Op, float]
    hides_gathers: bool
    """Whether FSDP's communication runs beside computation, as on a GPU's own stream."""
    cores: int | None
    """Cores that all ranks share; None where each has a device of its own."""

    def seconds(self, cost: Cost) -> float:
        """Return the time of a cost, one operation after the other."""
        return sum(amount * self.seconds_per[op] for op, amount in cost.items())


def assumed_rates(hardware: Hardware, layout: Layout) -> Rates:
    """Return the rates of a layout on hardware of which only the data sheet is known."""
    dense, attention, vision = (
        1 / (assumption.share * hardware.peak_flops) for assumption in (DENSE, ATTENTION, VISION)
    )
    elementwise = 1 / (ELEMENTWISE.share * hardware.memory_bytes_per_s)
    free = (Op.TEACHER_LAYER_CALLS, Op.STUDENT_UNIT_CALLS)
    free += (Op.TEACHER_LOADING, Op.STUDENT_LOADING, Op.RENDERING)  # type: ignore[assignment]
    return Rates(
        seconds_per={
            **dict.fromkeys((Op.TEACHER_LINEARS, Op.STUDENT_LINEARS, Op.RECALIBRATOR), dense),
            **dict.fromkeys((Op.TEACHER_HEAD, Op.STUDENT_HEAD), dense),
            **dict.fromkeys((Op.TEACHER_ATTENTION, Op.STUDENT_ATTENTION), attention),
            **dict.fromkeys((Op.TEACHER_VISION, Op.STUDENT_VISION), vision),
            **dict.fromkeys((Op.ELEMENTWISE, Op.OPTIMIZER), elementwise),
            **dict.fromkeys(free, 0.0),
            **link_seconds(hardware, layout),
        },
        hides_gathers=hardware.cores is None,
        cores=hardware.cores,
    )


def link_seconds(hardware: Hardware, layout: Layout) -> dict[Op, float]:
    """Return seconds a byte of every kind of traffic, by whether it leaves a node.

    tp groups lie in a node. Pipeline stages lie a mesh's tp x dp ranks apart (see `parallel.mesh`). A ring of
    collectives over several nodes uses all adapters of a node, so a rank sees their sum or its node's links.
    """
    in_node = 1 / (COLLECTIVES.share * hardware.node_bytes_per_s)
    between = 1 / (NETWORK.share * hardware.network_bytes_per_s)
    per_node = hardware.devices_per_node
    teacher = layout.teacher or MeshSpec(name="teacher")
    ring = in_node if layout.student.dp <= per_node else max(in_node, between / per_node)
    return {
        Op.TENSOR_PARALLEL: in_node,
        Op.PIPELINE: in_node if teacher.size <= per_node else between,
        Op.FEATURES: in_node if layout.world_size <= per_node else between,
        Op.GATHERS: ring,
        Op.REDUCTION: ring,
    }
