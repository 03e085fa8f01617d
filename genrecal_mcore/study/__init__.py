"""Runs a grid of arms, pairs, tasks and seeds as ordinary runs, and says what differs beyond chance.

Refuses to train in its own process: every run is a command that a user could type. Start with `grid`, then
`study`.
"""

from genrecal_mcore.study.grid import Grid, load_grid
from genrecal_mcore.study.report import study_report
from genrecal_mcore.study.running import Failure
from genrecal_mcore.study.study import Share, run_study

__all__ = ["Failure", "Grid", "Share", "load_grid", "run_study", "study_report"]
