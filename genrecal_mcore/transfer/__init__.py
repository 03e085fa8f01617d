"""Moves teacher features to student ranks, one way, inside one job.

Both sides compute the same plan; a header proves it. Refuses to know models or losses. Start with
`route_plan`, then `channel`.
"""

from genrecal_mcore.status import Unit
from genrecal_mcore.transfer.channel import Edge, FeatureReceiver, FeatureSender, ReceivedUnit
from genrecal_mcore.transfer.header import HEADER_BYTES, unit_digest
from genrecal_mcore.transfer.route_plan import (
    RoutePlan,
    edges,
    owner_of_rows,
    units_of_replica,
    units_of_student,
)
from genrecal_mcore.transfer.waiting import TransferError, wait_for

__all__ = [
    "HEADER_BYTES",
    "Edge",
    "FeatureReceiver",
    "FeatureSender",
    "ReceivedUnit",
    "RoutePlan",
    "TransferError",
    "Unit",
    "edges",
    "owner_of_rows",
    "unit_digest",
    "units_of_replica",
    "units_of_student",
    "wait_for",
]
