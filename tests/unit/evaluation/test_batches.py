import random

import pytest

from genrecal_mcore.evaluation.batches import plan_batches

pytestmark = pytest.mark.evaluation


def test_batches_hold_every_prompt_once_the_longest_first_within_the_budget() -> None:
    rng = random.Random(3)
    lengths = [rng.randint(1, 400) for _ in range(200)]
    batches = plan_batches(lengths, max_new_tokens=16, batch_tokens=1000)
    assert sorted(position for batch in batches for position in batch) == list(range(200))
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)
    assert all(len(batch) * (lengths[batch[0]] + 16) <= 1000 for batch in batches)
    assert min(map(len, batches)) == 2  # two of the longest fit, and no batch could take the next one's first
    for batch, following in zip(batches, batches[1:], strict=False):
        assert (len(batch) + 1) * (lengths[batch[0]] + 16) > 1000, following


def test_a_prompt_beyond_the_budget_is_a_batch_of_its_own() -> None:
    assert plan_batches([5, 900, 4], max_new_tokens=10, batch_tokens=30) == [[1], [0, 2]]


def test_prompts_of_one_length_keep_their_order() -> None:
    assert plan_batches([7] * 5, max_new_tokens=3, batch_tokens=20) == [[0, 1], [2, 3], [4]]
