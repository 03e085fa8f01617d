"""Which questions share a batch; pure, and the same for any number of ranks."""

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], *, max_new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Return batches of positions in `lengths`, the longest prompts first.

    A batch costs (longest prompt + `max_new_tokens`) x prompts: what its keys and values take at the end. It
    takes prompts of falling length while it costs no more than `batch_tokens`, but always one.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches:
            longest = lengths[batches[-1][0]] + max_new_tokens
            if longest * (len(batches[-1]) + 1) <= batch_tokens:
                batches[-1].append(position)
                continue
        batches.append([position])
    return batches
