"""How many rows of logits are made at once: as many as the memory budget holds, until more is no faster."""

FP32_SIZE = 4
MOST_ROWS = 512
"""Rows of a chunk that no budget exceeds.

On a CPU, with v 152064, a row takes equally long in chunks of 128 to 512 rows. With h 512, in chunks of 32 it
takes 1.4 times as long, as the head is read more often than it is used; in chunks of 2048 1.1 times, as more
memory is touched for the first time.
"""


def rows_per_chunk(vocab_size: int, memory_budget_bytes: int, *, num_buffers: int) -> int:
    """Return how many rows of `num_buffers` matrices of fp32 logits the budget holds, at most `MOST_ROWS`.

    Raises `ValueError` when it is none.
    """
    bytes_per_row = num_buffers * vocab_size * FP32_SIZE
    rows = memory_budget_bytes // bytes_per_row
    if rows < 1:
        raise ValueError(
            f"loss.memory_budget_mib: {memory_budget_bytes} bytes do not hold one row of logits over "
            f"{vocab_size} tokens; set it to at least {-(-bytes_per_row // 2**20)} MiB"
        )
    return min(rows, MOST_ROWS)


def even_rows(num_rows: int, *, most: int) -> int:
    """Return how long the chunks are when there are as few as possible of at most `most` rows, at least 1.

    They are about equally long: a short rest would run its matrix products at a fraction of the speed.
    """
    num_chunks = max(1, -(-num_rows // most))
    return max(1, -(-num_rows // num_chunks))
