"""Looks into a trained Recalibrator: what its losses depend on, and how near both models' features come.

One process holds teacher, student and Recalibrator of a run, and trains nothing. Start with `diagnose`.
"""

from genrecal_mcore.diagnostics.diagnose import (
    Diagnosis,
    DiagnosisSettings,
    diagnose_run,
)

__all__ = ["Diagnosis", "DiagnosisSettings", "diagnose_run"]
