"""Looks into a trained Recalibrator: what its losses depend on, and how near both models' features come.

One process holds teacher, student and Recalibrator of a run, and trains nothing. Start with `diagnose`.
"""

from genrecal_mcore.diagnostics.diagnose import (
    DIAGNOSTICS_NAME,
    FEATURES_NAME,
    Diagnosis,
    DiagnosisSettings,
    diagnose_run,
)

__all__ = ["DIAGNOSTICS_NAME", "FEATURES_NAME", "Diagnosis", "DiagnosisSettings", "diagnose_run"]
