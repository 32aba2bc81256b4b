"""L1: sessions of partitions that this process owns, kept decoded beside the turn."""

import time
from collections.abc import Callable, Hashable

from schemas.session import SessionData
from store.recent import Recent


class L1Cache:
    """Least recently used first out. An entry is right as long as its partition is owned; where it is not, the
    store's compare-and-set refuses what was made from it, so a stale read is never written.
    """

    def __init__(self, *, size: int, ttl_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: Recent[str, tuple[SessionData, Hashable]] = Recent(size=size, seconds=ttl_seconds, clock=clock)
        """Sessions, each with its partition."""
        self.hits = 0
        self.misses = 0

    def get(self, session_id: str) -> SessionData | None:
        entry = self._kept.get(session_id)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        return entry[0]

    def put(self, session: SessionData, partition: Hashable, lives_seconds: float) -> None:
        """Keeps `session`, which is gone from the store in `lives_seconds` and then from here, too."""
        self._kept.put(session.session_id, (session, partition), lives_seconds)

    def drop(self, session_id: str) -> None:
        self._kept.drop(session_id)

    def drop_partition(self, partition: Hashable) -> None:
        """Forgets all sessions of a partition that is no longer owned."""
        self._kept.drop_where(lambda entry: entry[1] == partition)

    def describe(self) -> dict[str, int | float]:
        """For statistics: how many sessions are in it, and the share of reads that found theirs."""
        reads = self.hits + self.misses
        return {
            "l1_cache_size": len(self),
            "l1_cache_hit_rate": round(self.hits / reads, 4) if reads else 0.0,
        }

    def __len__(self) -> int:
        return len(self._kept)
