"""The part of a run's section in `report.html` that its diagnoses fill: tables, and Figures 6, 7 and 9."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from genrecal_mcore.observability.diagnosis_files import diagnosed_steps, read_diagnostics, read_features
from genrecal_mcore.observability.diagnostics_table import diagnostics_tables
from genrecal_mcore.observability.figures import (
    RunLosses,
    cosine_figure,
    losses_and_perplexities_figure,
    tsne_figure,
    tsne_layout,
)
from genrecal_mcore.observability.plots import Metrics
from genrecal_mcore.observability.report_page import captioned, note

POOLINGS = {"boundary": "pooled over the boundary", "all": "pooled over all positions"}
"""Keys of `cosine` in `diagnostics.json`, and what they mean."""


def diagnosis_section(run_dir: Path, metrics: Metrics, drawn: Callable[[str, Figure], str]) -> list[str]:
    """Return pieces of HTML, none for a run that was not diagnosed; `drawn` makes one of a figure."""
    steps = diagnosed_steps(run_dir)
    if not steps:
        return []
    facts = read_diagnostics(steps[max(steps)])
    assert facts is not None
    parts = [captioned(table) for table in diagnostics_tables(facts)]
    losses = RunLosses(metrics=metrics, diagnostics=facts)
    title = "Cross entropy through the Recalibrator, and both models' own"
    parts.append(drawn("perplexities", losses_and_perplexities_figure({title: losses})))
    parts.append(drawn("cosines", cosine_figure(cosines_by_pooling(facts))))
    return parts + _features(steps, drawn)


def cosines_by_pooling(facts: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """Return the cosine matrices of a diagnosis by what they are pooled over, in words."""
    return {words.capitalize(): facts["cosine"][key]["matrix"] for key, words in POOLINGS.items()}


def layouts_at_ends(steps: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
    """Return the t-SNE layouts of the first and the last diagnosed step, by step.

    Raises `RuntimeError` when scikit-learn is not there.
    """
    return {step: tsne_layout(read_features(steps[step])) for step in dict.fromkeys((min(steps), max(steps)))}


def _features(steps: Mapping[int, Path], drawn: Callable[[str, Figure], str]) -> list[str]:
    try:
        layouts = {f"Features at step {step}": layout for step, layout in layouts_at_ends(steps).items()}
    except RuntimeError as error:
        return [note(str(error))]
    parts = [drawn("features", tsne_figure(layouts))]
    if len(layouts) == 1:
        parts.append(note("`genrecal diagnose RUN --step 0` adds the features that the run began with."))
    return parts
