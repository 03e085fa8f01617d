"""Says before a job what it will need: checks what `train` checks, counts bytes of ranks, predicts time.

Starts nothing and reads no weights. Memory: start with `memory`, then `sizes` (exact counts) and
`activations` (the estimate). Time: start with `timing`, then `costs` (amounts), `rates` (what is assumed) and
`simulation` (who waits for whom). `proposals` compares layouts.
"""

from genrecal_mcore.planning.candidates import Search
from genrecal_mcore.planning.checks import check_loss_budget, check_nodes, check_run, ranks_needed
from genrecal_mcore.planning.counted import CountedModels, count_models
from genrecal_mcore.planning.feature_cache import cache_lines
from genrecal_mcore.planning.fit import check_fits
from genrecal_mcore.planning.hardware import Hardware, hardware_named
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
from genrecal_mcore.planning.planned_run import SAMPLES, SAMPLES_PER_STEP, planned_run, samples_of_run
from genrecal_mcore.planning.profile_record import (
    Profile,
    check_profile,
    load_profile,
    measured_rates,
    write_profile,
)
from genrecal_mcore.planning.proposals import Proposal, overrides, propose
from genrecal_mcore.planning.rates import Rates, assumed_rates
from genrecal_mcore.planning.table import Row, fit_text, memory_header, memory_rows, notes
from genrecal_mcore.planning.timing import Prediction, TimedLayout, predict, predict_workload, timed_layout
from genrecal_mcore.planning.timing_table import (
    PROPOSALS_HEADER,
    UNIT_HEADER,
    assumption_lines,
    prediction_lines,
    profile_rows,
    proposal_row,
    refusal_lines,
    unit_rows,
    workload_line,
    zero3_lines,
)
from genrecal_mcore.planning.unit_costs import mean_unit_costs, step_column
from genrecal_mcore.planning.workload import Workload, longest_drawn
from genrecal_mcore.planning.zero3 import zero3

__all__ = [
    "PROPOSALS_HEADER",
    "SAMPLES",
    "SAMPLES_PER_STEP",
    "UNIT_HEADER",
    "CountedModels",
    "Hardware",
    "Part",
    "PlannedModel",
    "PlannedModels",
    "PlannedTeacher",
    "Prediction",
    "Profile",
    "Proposal",
    "RankKind",
    "cache_lines",
    "Rates",
    "Row",
    "Search",
    "TimedLayout",
    "Workload",
    "assumed_rates",
    "assumption_lines",
    "check_fits",
    "check_loss_budget",
    "check_nodes",
    "check_profile",
    "check_run",
    "count_models",
    "fit_text",
    "hardware_named",
    "load_profile",
    "longest_drawn",
    "mean_unit_costs",
    "measured_rates",
    "memory_header",
    "memory_rows",
    "models_in_folders",
    "named_model",
    "named_teacher",
    "notes",
    "overrides",
    "plan_memory",
    "planned_run",
    "predict",
    "predict_workload",
    "prediction_lines",
    "profile_rows",
    "proposal_row",
    "propose",
    "refusal_lines",
    "samples_of_run",
    "step_column",
    "timed_layout",
    "unit_rows",
    "workload_line",
    "write_profile",
    "zero3",
    "zero3_lines",
    "ranks_needed",
]
