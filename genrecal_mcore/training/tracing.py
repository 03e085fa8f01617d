"""Lets the ranks of a job record what they do in the steps of a trace."""

import logging

import torch.distributed as dist

from genrecal_mcore.config import RunConfig
from genrecal_mcore.parallel import exchange_clocks
from genrecal_mcore.status import RankStatus, SpanLog, TraceHeader, trace_path, trace_paths

logger = logging.getLogger(__name__)


def begin_trace(config: RunConfig, status: RankStatus, *, first_step: int) -> None:
    """Measure this rank's clock and let its status record the traced steps (collective over the world).

    A run that goes on behind those steps keeps what an earlier start recorded.
    """
    if config.trace is None or first_step >= config.trace.steps.stop:
        return
    record = status.record
    if record.rank == 0:
        for path in trace_paths(config.run.dir):  # of an earlier start, perhaps with more ranks
            path.unlink()
    clock = exchange_clocks(dist.new_group(backend="gloo", group_desc="clocks"))
    logger.info("clock: %+d ns to rank 0, +-%d ns", clock.offset_ns, clock.uncertainty_ns)
    header = TraceHeader(
        rank=record.rank,
        role=record.role,
        host=record.host,
        world_size=record.world_size,
        offset_ns=clock.offset_ns,
        uncertainty_ns=clock.uncertainty_ns,
    )
    status.trace_into(SpanLog(trace_path(config.run.dir, record.rank), header, steps=config.trace.steps))
