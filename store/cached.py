"""Reads of sessions by a process that owns none: cached for a short time, and dropped when their events come by."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from schemas.session import SessionData
from store.l1 import L1Cache
from store.protocol import StoreStats

MAX_AGE_SECONDS = 60.0
"""How old an entry may be where no event says that it changed."""


class SessionReads(Protocol):
    """What is asked of a store by whoever only reads; `store.protocol.SessionStore` has it all."""

    async def get(self, session_id: str) -> SessionData | None: ...

    async def exists(self, session_id: str) -> bool: ...

    async def newest_event(self, session_id: str) -> bytes | None: ...

    async def events(self, session_id: str, after_seq: int = 0) -> Sequence[bytes]: ...

    def ttl_of(self, session: SessionData) -> float: ...

    async def get_stats(self) -> StoreStats: ...

    async def ping(self) -> None: ...


class CachedReads:
    """`SessionReads` with `get` out of a cache. Whoever sees a session's reply events calls `forget` for each: then an
    entry is out of date only as long as its event is on the way."""

    def __init__(self, store: SessionReads, cache: L1Cache, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._reading: Counter[str] = Counter()
        self._overtaken: set[str] = set()

    async def get(self, session_id: str) -> SessionData | None:
        cached = self._cache.get(session_id)
        if cached is not None:
            return cached
        self._reading[session_id] += 1
        try:
            session = await self._store.get(session_id)
            # An event that came meanwhile may be newer than what was read.
            if session is not None and session_id not in self._overtaken:
                self._cache.put(session, None, session.expires_at(self._store.ttl_of(session)) - self._clock())
            return session
        finally:
            self._reading[session_id] -= 1
            if not self._reading[session_id]:
                del self._reading[session_id]
                self._overtaken.discard(session_id)

    def forget(self, session_id: str) -> None:
        """The session changed."""
        self._cache.drop(session_id)
        if session_id in self._reading:
            self._overtaken.add(session_id)

    async def exists(self, session_id: str) -> bool:
        return await self.get(session_id) is not None

    async def newest_event(self, session_id: str) -> bytes | None:
        return await self._store.newest_event(session_id)

    async def events(self, session_id: str, after_seq: int = 0) -> Sequence[bytes]:
        return await self._store.events(session_id, after_seq)

    def ttl_of(self, session: SessionData) -> float:
        return self._store.ttl_of(session)

    async def get_stats(self) -> StoreStats:
        return await self._store.get_stats()

    async def ping(self) -> None:
        await self._store.ping()
