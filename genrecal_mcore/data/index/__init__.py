"""What there is to learn from: an index on disk of every sample that passes the door, built once.

Refuses to be used for other data than it was built from. Start with `door`, then `samples`; `build` says how
one is made.
"""

from genrecal_mcore.data.index.build import ALONE, Builders
from genrecal_mcore.data.index.door import build_index, prepare_index
from genrecal_mcore.data.index.layout import SkippedSample, count_reasons
from genrecal_mcore.data.index.samples import SampleFacts, SampleIndex
from genrecal_mcore.data.index.trials import draw_samples, first_samples

__all__ = [
    "ALONE",
    "Builders",
    "SampleFacts",
    "SampleIndex",
    "SkippedSample",
    "build_index",
    "count_reasons",
    "draw_samples",
    "first_samples",
    "prepare_index",
]
