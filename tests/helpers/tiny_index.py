"""Reads whole indexes, for tests that compare them."""

from typing import Any

from genrecal_mcore.data import Sample, SampleIndex
from genrecal_mcore.data.index import SampleFacts


def samples_of(index: SampleIndex) -> list[Sample]:
    """Return every sample."""
    return [index[number] for number in range(len(index))]


def facts_of(index: SampleIndex) -> list[SampleFacts]:
    """Return what is known of every sample."""
    return [index.facts(number) for number in range(len(index))]


def content_of(index: SampleIndex) -> dict[str, Any]:
    """Return everything that an index says, as something that can be compared."""
    return {
        "samples": samples_of(index),
        "facts": facts_of(index),
        "tokens": index.tokens.tolist(),
        "digests": [index.digest_of(number) for number in range(len(index))],
        "skipped": index.skipped,
        "manifest": index.manifest,
    }
