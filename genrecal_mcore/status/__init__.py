"""Where each rank is: written while it runs, explained afterwards.

Light on purpose: reading a run's last words imports no torch. Start with `rank_status`.
"""

from genrecal_mcore.status.explain import Explanation, explain_run
from genrecal_mcore.status.rank_status import (
    Activity,
    RankStatus,
    StatusRecord,
    read_statuses,
    status_path,
    status_paths,
    unrecorded_status,
)
from genrecal_mcore.status.spans import (
    SENDS_FEATURES,
    RankTrace,
    Span,
    SpanLog,
    TraceHeader,
    read_traces,
    trace_path,
    trace_paths,
)
from genrecal_mcore.status.unit import Unit

__all__ = [
    "SENDS_FEATURES",
    "Activity",
    "Explanation",
    "RankStatus",
    "RankTrace",
    "Span",
    "SpanLog",
    "StatusRecord",
    "TraceHeader",
    "Unit",
    "explain_run",
    "read_statuses",
    "read_traces",
    "status_path",
    "status_paths",
    "trace_path",
    "trace_paths",
    "unrecorded_status",
]
