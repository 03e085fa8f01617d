"""Sums up an index by source: how much there is of each, how long its samples are, how often it is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrecal_mcore.config import RunConfig
from genrecal_mcore.data.index import SampleIndex
from genrecal_mcore.data.of_run import sample_order

SOURCES_HEADER = (
    "source",
    "domain",
    "samples",
    "skipped",
    "teacher tokens: mean, 95 %, most",
    "student tokens: mean, 95 %, most",
    "share asked",
    "share drawn",
)
"""Of the rows that `SourceSummary.row` gives."""
MOST_DOMAINS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSummary:
    """Lengths of a source's samples in one tokenizer."""

    mean: float
    percentile_95: float
    most: int

    def __str__(self) -> str:
        return f"{self.mean:.0f}, {self.percentile_95:.0f}, {self.most}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSummary:
    """One source of an index."""

    name: str
    domains: tuple[str, ...]
    num_samples: int
    num_skipped: int
    teacher: TokenSummary | None
    """None where the run has no teacher, or the source no sample."""
    student: TokenSummary | None
    share_asked: float | None
    """By weight; None where sources have none."""
    share_drawn: float
    """Of the samples of the first epoch, or of the first block where there are weights."""

    def row(self) -> tuple[str, ...]:
        """Return the row of the table whose header is `SOURCES_HEADER`."""
        domains = ", ".join(self.domains[:MOST_DOMAINS]) or "-"
        return (
            self.name,
            f"{domains}, ..." if len(self.domains) > MOST_DOMAINS else domains,
            str(self.num_samples),
            str(self.num_skipped),
            str(self.teacher or "-"),
            str(self.student or "-"),
            "-" if self.share_asked is None else f"{self.share_asked:.2%}",
            f"{self.share_drawn:.2%}",
        )


def describe_sources(config: RunConfig, index: SampleIndex) -> list[SourceSummary]:
    """Return what a run has of each source; raises as `sample_order` does."""
    weights = [source.weight or 0.0 for source in config.data.sources]
    drawn = _drawn_shares(config, index)
    return [
        SourceSummary(
            name=source.label,
            domains=_domains(index, number),
            num_samples=len(index.samples_of_source(number)),
            num_skipped=index.manifest.num_skipped[number],
            teacher=_tokens(index.teacher_tokens, index.samples_of_source(number)),
            student=_tokens(index.student_tokens, index.samples_of_source(number)),
            share_asked=weights[number] / sum(weights) if source.weight else None,
            share_drawn=drawn[number],
        )
        for number, source in enumerate(config.data.sources)
    ]


def _drawn_shares(config: RunConfig, index: SampleIndex) -> Sequence[float]:
    samples = sample_order(config, index).rounds.draw(0)
    num_sources = len(config.data.sources)
    ends = [index.samples_of_source(number).stop for number in range(num_sources)]
    counts = np.bincount(np.searchsorted(ends, samples, side="right"), minlength=num_sources)
    return (counts / len(samples)).tolist()


def _domains(index: SampleIndex, source: int) -> tuple[str, ...]:
    samples = index.samples_of_source(source)
    numbers = np.unique(index.domains[samples.start : samples.stop]).tolist()
    return tuple(index.domain_names[number] or "none" for number in numbers)


def _tokens(column: np.ndarray, samples: range) -> TokenSummary | None:
    lengths = column[samples.start : samples.stop]
    if not len(lengths) or not lengths.any():
        return None
    return TokenSummary(
        mean=float(lengths.mean()),
        percentile_95=float(np.percentile(lengths, 95)),
        most=int(lengths.max()),
    )
