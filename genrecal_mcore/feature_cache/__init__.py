"""Keeps a frozen teacher's features on disk, by sample: written once, read back instead of running it again.

Refuses to know a model, a run or another rank. Start with `record` and `shards` (what lies on disk), then
`writer` and `reader`.
"""

from genrecal_mcore.feature_cache.contents import CacheContents, read_contents
from genrecal_mcore.feature_cache.reader import FeatureReader
from genrecal_mcore.feature_cache.record import (
    CacheRecord,
    check_record,
    create_record,
    has_record,
    load_record,
)
from genrecal_mcore.feature_cache.shards import remove_partial_shards, sample_bytes
from genrecal_mcore.feature_cache.writer import FeatureWriter

__all__ = [
    "CacheContents",
    "CacheRecord",
    "FeatureReader",
    "FeatureWriter",
    "check_record",
    "create_record",
    "has_record",
    "load_record",
    "read_contents",
    "remove_partial_shards",
    "sample_bytes",
]
