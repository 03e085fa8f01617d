"""Which rank writes which sample: each once over all ranks, also where an epoch begins inside a step."""

from collections import Counter

import numpy as np
import pytest

from genrecal_mcore.data import BatchShape, SampleOrder, num_microbatches
from genrecal_mcore.status import Unit
from genrecal_mcore.training.written_features import SamplesToWrite

TOKENS = (7, 30, 2, 11, 5, 64, 8, 1, 19, 23, 3, 40, 9, 6, 13, 27, 4)
NUM_SAMPLES = len(TOKENS)
ORDER = SampleOrder(TOKENS, 5, "digest")


def written(batch: BatchShape, *, keys: np.ndarray, is_missing: np.ndarray, first_step: int = 0) -> list[str]:
    """Return the keys that all ranks together write in the steps of three epochs."""
    found = []
    last_step = first_step + 3 * -(-NUM_SAMPLES // batch.samples_per_step)
    for rank in range(batch.student_dp):
        to_write = SamplesToWrite(ORDER, batch, keys=keys, is_missing=is_missing.copy())
        for step in range(first_step, last_step):
            for microbatch in range(num_microbatches(ORDER, step=step, batch=batch)):
                unit = Unit(step=step, microbatch=microbatch, student_rank=rank)
                found += [key for _, key in to_write.of_unit(unit)]
    return found


def keys_of(*contents: int) -> np.ndarray:
    return np.array([f"{content:032x}" for content in contents], dtype="S32")


@pytest.mark.parametrize("first_step", [0, 2])
@pytest.mark.parametrize("unit_tokens", [None, 64])
@pytest.mark.parametrize(("micro_batch_size", "student_dp"), [(1, 1), (2, 1), (2, 3), (9, 2)])
def test_every_missing_sample_is_written_by_one_rank(
    micro_batch_size: int, student_dp: int, unit_tokens: int | None, first_step: int
) -> None:
    batch = BatchShape(
        micro_batch_size=micro_batch_size,
        accumulation_steps=2,
        student_dp=student_dp,
        unit_tokens=unit_tokens,
    )
    keys, is_missing = keys_of(*range(NUM_SAMPLES)), np.arange(NUM_SAMPLES) % 3 != 1
    found = written(batch, keys=keys, is_missing=is_missing, first_step=first_step)
    assert Counter(found) == Counter(key.decode() for key in keys[is_missing])


def test_equal_samples_are_written_once() -> None:
    batch = BatchShape(micro_batch_size=2, accumulation_steps=1, student_dp=2)
    keys = keys_of(*(number // 2 for number in range(NUM_SAMPLES)))
    found = written(batch, keys=keys, is_missing=np.ones(NUM_SAMPLES, dtype=bool))
    assert Counter(found) == Counter({key.decode() for key in keys})
