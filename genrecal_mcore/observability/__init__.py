"""What a run says about itself: metrics, log files, the progress line, versions, the report, the trace."""

from genrecal_mcore.observability.diagnosis_files import (
    DIAGNOSTICS_NAME,
    FEATURES_NAME,
    diagnosed_steps,
    diagnosis_folder,
    read_diagnostics,
)
from genrecal_mcore.observability.diagnostics_table import diagnostics_tables
from genrecal_mcore.observability.evaluation_table import EvaluationTable
from genrecal_mcore.observability.logging_setup import set_up_logging, stderr_console
from genrecal_mcore.observability.metrics import METRIC_FIELDS, MetricsWriter, MetricValue, read_metrics
from genrecal_mcore.observability.progress import CountLine, ProgressLine
from genrecal_mcore.observability.report import write_report
from genrecal_mcore.observability.sizes import size_text
from genrecal_mcore.observability.trace import write_trace
from genrecal_mcore.observability.versions import versions_text

__all__ = [
    "DIAGNOSTICS_NAME",
    "FEATURES_NAME",
    "METRIC_FIELDS",
    "CountLine",
    "EvaluationTable",
    "MetricValue",
    "MetricsWriter",
    "ProgressLine",
    "diagnosed_steps",
    "diagnosis_folder",
    "diagnostics_tables",
    "read_diagnostics",
    "read_metrics",
    "set_up_logging",
    "size_text",
    "stderr_console",
    "versions_text",
    "write_report",
    "write_trace",
]
