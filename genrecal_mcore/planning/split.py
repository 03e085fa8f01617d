"""Splits the teacher's layers over its pipeline stages, so that none keeps the others waiting."""


def balanced_split(*, num_layers: int, pp: int, images: float) -> tuple[int, ...]:
    """Return the layers of each stage for which the slowest is fastest.

    `images`: the time of the first stage before its layers, in times of a layer. Of splits that are as fast,
    the one with most layers on the first stage.
    """
    if pp == 1:
        return (num_layers,)

    def slowest(first: int) -> float:
        return max(images + first, -(-(num_layers - first) // (pp - 1)))

    first = min(range(num_layers - pp + 1, 0, -1), key=slowest)
    each, more = divmod(num_layers - first, pp - 1)
    return (first, *(each,) * (pp - 1 - more), *(each + 1,) * more)
