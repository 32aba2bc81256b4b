"""Which waiting texts are encoded together. Decides only: no threads, no clock, no model."""

from bisect import bisect_left, insort
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


def fits_together(shortest: int, longest: int) -> bool:
    """Whether padding the shortest to the longest costs less than a batch more (measured on short
    questions)."""
    return longest <= 1.2 * shortest + 2


class BatchQueue(Generic[T]):
    """Waiting items with their lengths; `take` gives the oldest and those nearest to it in length.

    A batch costs as much as its longest text times its size, so equal lengths together waste the least; a
    fixed cost per batch (of about 25 tokens) still makes neighbours worth taking along: see `fits_together`.
    Every take has the oldest item, so an item waits for at most as many batches as there were items before
    it. Not thread-safe.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[int, tuple[int, T]] = OrderedDict()
        self._by_length: list[tuple[int, int]] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, length: int) -> int:
        """Adds an item; the ticket that comes back takes it away again (`discard`)."""
        ticket = self._next
        self._next += 1
        self._items[ticket] = (length, item)
        insort(self._by_length, (length, ticket))
        return ticket

    def discard(self, ticket: int) -> bool:
        """Removes an item that nobody waits for any more; False if it was already taken."""
        entry = self._items.pop(ticket, None)
        if entry is None:
            return False
        del self._by_length[bisect_left(self._by_length, (entry[0], ticket))]
        return True

    def take(self, limit: int) -> list[T]:
        """Removes and returns up to `limit` items: the oldest and its neighbours in length; empty if none
        wait."""
        if not self._items:
            return []
        oldest, (length, _) = next(iter(self._items.items()))
        low = bisect_left(self._by_length, (length, oldest))
        high = low + 1
        while high - low < limit and (low > 0 or high < len(self._by_length)):
            below = length - self._by_length[low - 1][0] if low > 0 else None
            above = self._by_length[high][0] - length if high < len(self._by_length) else None
            grew_below = above is None or (below is not None and below <= above)
            if grew_below:
                low -= 1
            else:
                high += 1
            if not fits_together(self._by_length[low][0], self._by_length[high - 1][0]):
                low, high = (low + 1, high) if grew_below else (low, high - 1)
                break
        chosen = self._by_length[low:high]
        del self._by_length[low:high]
        return [self._items.pop(ticket)[1] for _, ticket in chosen]
