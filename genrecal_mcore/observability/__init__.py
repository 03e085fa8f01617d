"""What a run says about itself: metrics, log files, the progress line, versions."""

from genrecal_mcore.observability.logging_setup import set_up_logging, stderr_console
from genrecal_mcore.observability.metrics import METRIC_FIELDS, MetricsWriter, MetricValue, read_metrics
from genrecal_mcore.observability.progress import ProgressLine
from genrecal_mcore.observability.versions import versions_text

__all__ = [
    "METRIC_FIELDS",
    "MetricValue",
    "MetricsWriter",
    "ProgressLine",
    "read_metrics",
    "set_up_logging",
    "stderr_console",
    "versions_text",
]
