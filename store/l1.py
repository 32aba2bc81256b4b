"""L1: sessions of partitions that this process owns, kept decoded beside the turn."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from schemas.frozen import frozen
from schemas.session import SessionData


@frozen()
class _Entry:
    session: SessionData
    partition: Hashable
    expires_at: float


class L1Cache:
    """Least recently used first out. An entry is right as long as its partition is owned; where it is not, the
    store's compare-and-set refuses what was made from it, so a stale read is never written.
    """

    def __init__(self, *, size: int, ttl_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._ttl = ttl_seconds
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, session_id: str) -> SessionData | None:
        entry = self._entries.get(session_id)
        if entry is None or entry.expires_at <= self._clock():
            self.misses += 1
            self._entries.pop(session_id, None)
            return None
        self.hits += 1
        self._entries.move_to_end(session_id)
        return entry.session

    def put(self, session: SessionData, partition: Hashable, lives_seconds: float) -> None:
        """Keeps `session`, which is gone from the store in `lives_seconds` and then from here, too."""
        if self._size == 0:
            return
        until = self._clock() + min(self._ttl, lives_seconds)
        self._entries[session.session_id] = _Entry(session, partition, until)
        self._entries.move_to_end(session.session_id)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def drop(self, session_id: str) -> None:
        self._entries.pop(session_id, None)

    def drop_partition(self, partition: Hashable) -> None:
        """Forgets all sessions of a partition that is no longer owned."""
        for session_id in [key for key, entry in self._entries.items() if entry.partition == partition]:
            del self._entries[session_id]

    def describe(self) -> dict[str, int | float]:
        """For statistics: how many sessions are in it, and the share of reads that found theirs."""
        reads = self.hits + self.misses
        return {
            "l1_cache_size": len(self._entries),
            "l1_cache_hit_rate": round(self.hits / reads, 4) if reads else 0.0,
        }

    def __len__(self) -> int:
        return len(self._entries)
