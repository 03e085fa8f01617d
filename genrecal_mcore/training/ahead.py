"""Begins work a few items before it is needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Begun = TypeVar("Begun")


def begun_ahead(
    items: Iterable[Item], begin: Callable[[Item], Begun], *, depth: int
) -> Iterator[tuple[Item, Begun]]:
    """Yield each item with what `begin` returned for it, once the `depth` items after it have begun too."""
    ahead: deque[tuple[Item, Begun]] = deque()
    for item in items:
        ahead.append((item, begin(item)))
        if len(ahead) > depth:
            yield ahead.popleft()
    yield from ahead
