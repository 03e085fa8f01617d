"""Says before a job what it will need: checks what `train` checks, counts bytes by kind of rank.

Starts nothing and reads no weights. Start with `memory`, then `sizes` (exact counts) and `activations` (the
estimate).
"""

from genrecal_mcore.planning.checks import check_loss_budget, check_nodes, check_run
from genrecal_mcore.planning.counted import count_models
from genrecal_mcore.planning.feature_cache import cache_lines
from genrecal_mcore.planning.fit import check_fits
from genrecal_mcore.planning.memory import plan_memory
from genrecal_mcore.planning.models import (
    PlannedModel,
    PlannedModels,
    PlannedTeacher,
    models_in_folders,
    named_model,
    named_teacher,
)
from genrecal_mcore.planning.parts import Part, RankKind
from genrecal_mcore.planning.table import fit_text, memory_header, memory_rows, notes

__all__ = [
    "Part",
    "PlannedModel",
    "PlannedModels",
    "PlannedTeacher",
    "RankKind",
    "cache_lines",
    "check_fits",
    "check_loss_budget",
    "check_nodes",
    "check_run",
    "count_models",
    "fit_text",
    "memory_header",
    "memory_rows",
    "models_in_folders",
    "named_model",
    "named_teacher",
    "notes",
    "plan_memory",
]
