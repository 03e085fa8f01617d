"""Who is where: meshes over ranks, process groups, seeds and the CPU shims of megatron-core.

Refuses to know what the ranks compute. Start with `mesh` for the arithmetic, then `topology`.
"""

from genrecal_mcore.parallel.children import children_import_silently
from genrecal_mcore.parallel.clock import ClockOffset, exchange_clocks
from genrecal_mcore.parallel.cpu_shims import install_cpu_shims
from genrecal_mcore.parallel.mesh import Layout, MeshCoordinate, MeshSpec, layout_of
from genrecal_mcore.parallel.seeds import seed_unit, unit_seed
from genrecal_mcore.parallel.topology import Topology, build_topology, create_mesh_groups

__all__ = [
    "ClockOffset",
    "Layout",
    "MeshCoordinate",
    "MeshSpec",
    "Topology",
    "build_topology",
    "children_import_silently",
    "create_mesh_groups",
    "exchange_clocks",
    "install_cpu_shims",
    "layout_of",
    "seed_unit",
    "unit_seed",
]
