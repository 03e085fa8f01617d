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
    what="products with weights: decoders, towers, heads, Recalibrator",
    share=0.45,
    of="peak flops",
    source="Megatron-LM's README: 44 % of A100's peak for GPT-3 on 1024, 41 to 48 % of H100's",
)
ATTENTION = Assumption(
    what="attention, forward and backward",
    share=0.35,
    of="peak flops",
    source="FlashAttention-2 (arXiv 2307.08691): 50 to 73 % of A100 forward; 31 to 37 % of H100 (2407.08608)",
)
ELEMENTWISE = Assumption(
    what="elementwise passes, AdamW",
    share=0.80,
    of="memory bandwidth",
    source="STREAM's triad takes about 90 % on A100 and H100, short kernels less",
)
COLLECTIVES = Assumption(
    what="collectives and transfers, in a node",
    share=0.75,
    of="a device's bandwidth in its node",
    source="nccl-tests on eight A100: about 230 of 300 GB/s of bus bandwidth",
)
NETWORK = Assumption(
    what="collectives and transfers between nodes",
    share=0.75,
    of="a device's share of the network",
    source="nccl-tests over InfiniBand: 80 to 90 %, less under other traffic",
)
COLLECTIVE_START_S = 20e-6
"""A small collective over eight A100 by nccl-tests; more over nodes, where FSDP hides it."""
ASSUMPTIONS = (DENSE, ATTENTION, ELEMENTWISE, COLLECTIVES, NETWORK)
PRODUCTS = (
    Op.TEACHER_LINEARS,
    Op.TEACHER_VISION,
    Op.STUDENT_LINEARS,
    Op.STUDENT_VISION,
    Op.RECALIBRATOR,
    Op.TEACHER_HEAD,
    Op.STUDENT_HEAD,
)
LINKS = (Op.TENSOR_PARALLEL, Op.PIPELINE, Op.FEATURES, Op.GATHERS, Op.REDUCTION)
FREE = (
    Op.TEACHER_LAYER_CALLS,
    Op.STUDENT_UNIT_CALLS,
    Op.TEACHER_LOADING,
    Op.STUDENT_LOADING,
    Op.RENDERING,
)
"""What assumed rates take to be hidden; a profile measures it."""
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
    crowded_pace: float = 1.0
    """How fast a core is while the others compute too, in times of its pace alone."""
    measured: str | None = None
    """What measured them; None where they are assumed."""

    def seconds(self, cost: Cost) -> float:
        """Return the time of a cost, one operation after the other."""
        return sum(amount * self.seconds_per[op] for op, amount in cost.items())


def assumed_rates(hardware: Hardware, layout: Layout) -> Rates:
    """Return the rates of a layout on hardware of which only the data sheet is known."""
    dense, attention = (1 / (of.share * hardware.peak_flops) for of in (DENSE, ATTENTION))
    elementwise = 1 / (ELEMENTWISE.share * hardware.memory_bytes_per_s)
    return Rates(
        seconds_per={
            **dict.fromkeys(PRODUCTS, dense),
            **dict.fromkeys((Op.TEACHER_ATTENTION, Op.STUDENT_ATTENTION), attention),
            **dict.fromkeys((Op.ELEMENTWISE, Op.OPTIMIZER), elementwise),
            **dict.fromkeys(FREE, 0.0),
            Op.COLLECTIVE_CALLS: COLLECTIVE_START_S,
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
