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
from genrecal_mcore.status.unit import Unit

__all__ = [
    "Activity",
    "Explanation",
    "RankStatus",
    "StatusRecord",
    "Unit",
    "explain_run",
    "read_statuses",
    "status_path",
    "status_paths",
    "unrecorded_status",
]
