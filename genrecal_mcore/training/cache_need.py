"""What a feature cache of a data set takes on disk, from the token counts of its samples."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrecal_mcore.data import SampleIndex, num_sample_rows
from genrecal_mcore.feature_cache import CacheRecord, sample_bytes
from genrecal_mcore.observability import size_text


def bytes_of_samples(index: SampleIndex, record: CacheRecord) -> np.ndarray:
    """Return what each sample takes in a cache, `[num_samples]` int64."""
    answer_tokens, num_answers = index.counts("teacher_answer_tokens"), index.counts("num_answers")
    counts = zip(answer_tokens.tolist(), num_answers.tolist(), index.teacher_tokens.tolist(), strict=True)
    rows = (
        num_sample_rows(of_answers, answers, tokens=tokens, with_questions=record.with_questions)
        for of_answers, answers, tokens in counts
    )
    return np.fromiter(
        (sample_bytes(num_rows, row_bytes=record.row_bytes) for num_rows in rows),
        dtype=np.int64,
        count=len(index),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheNeed:
    """What samples take that a cache lacks, and what there is for them."""

    folder: Path
    num_samples: int
    """Of the data, equal ones counted once."""
    num_missing: int
    sample_bytes: float
    """Of a sample of the data on average."""
    missing_bytes: int
    free_bytes: int

    @classmethod
    def of(
        cls,
        folder: Path,
        index: SampleIndex,
        record: CacheRecord,
        *,
        keys: np.ndarray,
        is_missing: np.ndarray,
    ) -> "CacheNeed":
        """Count; `keys` `[num_samples]` and `is_missing` `[num_samples]` bool are by sample number."""
        _, firsts = np.unique(keys, return_index=True)
        num_bytes, is_missing = bytes_of_samples(index, record)[firsts], is_missing[firsts]
        return cls(
            folder=folder,
            num_samples=len(firsts),
            num_missing=int(is_missing.sum()),
            sample_bytes=float(num_bytes.mean()),
            missing_bytes=int(num_bytes[is_missing].sum()),
            free_bytes=free_bytes(folder),
        )

    def describe(self) -> str:
        """Say it in a line."""
        return (
            f"the feature cache {self.folder} lacks {self.num_missing} of {self.num_samples} samples, "
            f"{size_text(self.missing_bytes)} ({size_text(self.sample_bytes)} a sample); "
            f"{size_text(self.free_bytes)} are free there"
        )

    def check_room(self) -> None:
        """Raise `ValueError` when the samples that are missing do not fit onto the disk."""
        if self.missing_bytes > self.free_bytes:
            raise ValueError(f"{self.describe()}; make room, or name a folder on a larger disk")


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free
