"""Finds what one of each amount takes, from the times of runs that differ in their amounts."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np


def seconds_of_each(amounts: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return the time of one of each amount, none below zero, whose sums are nearest to `seconds`.

    `amounts`: a row a run, a column a kind. Least squares over the columns that may count; a noisy clock can
    make one look as if it gave time back, which is then taken to be free.
    """
    matrix, times = np.array(amounts, dtype=np.float64), np.array(seconds, dtype=np.float64)
    best, best_error = np.zeros(matrix.shape[1]), float(times @ times)
    for count in range(1, matrix.shape[1] + 1):
        for columns in combinations(range(matrix.shape[1]), count):
            scale = np.maximum(np.abs(matrix[:, columns]).max(axis=0), 1e-300)
            found = np.linalg.lstsq(matrix[:, columns] / scale, times, rcond=None)[0] / scale
            error = float(((matrix[:, columns] @ found - times) ** 2).sum())
            if (found >= 0.0).all() and error < best_error:
                best, best_error = np.zeros(matrix.shape[1]), error
                best[list(columns)] = found
    return best.tolist()
