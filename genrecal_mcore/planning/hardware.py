"""GPU types by name, by their data sheets; and `cpu`, this machine, whose ranks share its cores.

Nothing here says how much of a peak is reached: that is in `rates`.
"""

import difflib
import os
from dataclasses import dataclass, replace

GIB = 2**30
MOST_RANKS_ON_A_CPU = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """One rank's device, and how it reaches the others."""

    name: str
    peak_flops: float
    """Flop a second of dense bfloat16 matrix products with fp32 sums; of a CPU, of one core in fp32."""
    memory_bytes: int
    """What a process can allocate on an empty device."""
    memory_bytes_per_s: float
    node_bytes_per_s: float
    """From one device to the others of its node, in one direction."""
    network_bytes_per_s: float
    """From one device to other nodes, in one direction: its share of the node's adapters."""
    devices_per_node: int
    source: str
    cores: int | None = None
    """Cores that all ranks share; None where each rank has a device of its own."""


_A100 = "NVIDIA A100 data sheet (June 2021); DGX A100: NVLink 3, eight HDR adapters of 200 Gb/s"
_H100 = "NVIDIA H100 data sheet (SXM5); DGX H100: NVLink 4, eight NDR adapters of 400 Gb/s"

_A100_80G = Hardware(
    name="a100-80g",
    peak_flops=312e12,
    memory_bytes=int(79.1 * GIB),
    memory_bytes_per_s=2.039e12,
    node_bytes_per_s=300e9,
    network_bytes_per_s=25e9,
    devices_per_node=8,
    source=_A100,
)
_H100_80G = Hardware(
    name="h100-80g",
    peak_flops=989e12,
    memory_bytes=int(79.1 * GIB),
    memory_bytes_per_s=3.35e12,
    node_bytes_per_s=450e9,
    network_bytes_per_s=50e9,
    devices_per_node=8,
    source=_H100,
)
_TYPES = (
    replace(_A100_80G, name="a100-40g", memory_bytes=int(39.4 * GIB), memory_bytes_per_s=1.555e12),
    _A100_80G,
    _H100_80G,
    replace(
        _H100_80G,
        name="h200",
        memory_bytes=int(139.8 * GIB),
        memory_bytes_per_s=4.8e12,
        source="NVIDIA H200 data sheet (SXM); nodes as DGX H100",
    ),
    Hardware(
        name="b200",
        peak_flops=2250e12,
        memory_bytes=int(167.0 * GIB),
        memory_bytes_per_s=8e12,
        node_bytes_per_s=900e9,
        network_bytes_per_s=50e9,
        devices_per_node=8,
        source="NVIDIA DGX B200 data sheet: an eighth of 1,440 GB and 64 TB/s; NVLink 5; 400 Gb/s a GPU",
    ),
    Hardware(
        name="l40s",
        peak_flops=362e12,
        memory_bytes=int(44.4 * GIB),
        memory_bytes_per_s=0.864e12,
        node_bytes_per_s=32e9,
        network_bytes_per_s=12.5e9,
        devices_per_node=8,
        source="NVIDIA L40S data sheet; PCIe 4 x16, no NVLink; 100 Gb/s a GPU taken",
    ),
)
GPUS = {gpu.name: gpu for gpu in _TYPES}


def this_machine() -> Hardware:
    """Return this machine's CPU. Its numbers are rough; `genrecal profile` measures what a run reaches."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(
        name="cpu",
        peak_flops=50e9,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=5e9,
        node_bytes_per_s=1e9,
        network_bytes_per_s=1e9,
        devices_per_node=MOST_RANKS_ON_A_CPU,
        source="rough; profile the run on this machine",
        cores=os.cpu_count() or 1,
    )


def hardware_named(name: str) -> Hardware:
    """Return a type by its name, in any case; raises `ValueError` naming the nearest."""
    wanted = name.lower()
    if wanted == "cpu":
        return this_machine()
    if wanted not in GPUS:
        nearest = difflib.get_close_matches(wanted, GPUS, n=1, cutoff=0.0)
        raise ValueError(
            f"--gpu {name} is not known; did you mean {nearest[0]}? Known are {', '.join([*GPUS, 'cpu'])}"
        )
    return GPUS[wanted]
