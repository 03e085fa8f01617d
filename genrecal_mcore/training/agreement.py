"""Before anything is sent: have all ranks read the same configuration and data, and dealt them out alike?

Headers say so of every unit (`transfer.header`), but receives are posted ahead: a transport may end the
process over rows of another size before anyone looks at the header.
"""

from collections.abc import Mapping
from hashlib import sha256

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data import BatchShape, SampleOrder, units_of_step
from genrecal_mcore.parallel import Layout
from genrecal_mcore.training.joining import gather_over_world


def plan_digests(config: RunConfig, order: SampleOrder, batch: BatchShape, *, step: int) -> dict[str, str]:
    """Return what must be equal on all ranks, by what it is called: `step` is the first to come."""
    return {
        "configuration": sha256(config.model_dump_json().encode()).hexdigest(),
        "data": order.identity,
        f"samples of step {step}": str(units_of_step(order, step=step, batch=batch)),
    }


def check_same_plan(own: Mapping[str, str], layout: Layout) -> None:
    """Raise `RuntimeError` on every rank, with the first one that differs (collective over the world)."""
    first, *others = (dict(gathered[0]) for gathered in gather_over_world([dict(own)]))
    for rank, plan in enumerate(others, start=1):
        wrong = [name for name, digest in first.items() if plan.get(name) != digest]
        if wrong:
            raise RuntimeError(
                f"the ranks computed different plans: {layout.who(rank)} has other {', '.join(wrong)} than "
                f"{layout.who(0)}; check that all ranks read the same configuration, data and tokenizers"
            )
