"""A session out of the cache beside the worker, and the same one out of Redis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Self

from ops.bench.conversations import Conversation
from ops.bench.side_figures import Figures
from ops.bench.store_writes import commits
from ops.bench.timing import in_flight_s, one_at_a_time_s
from store.l1 import L1Cache
from store.protocol import Fence, SessionStore

SESSIONS = 200
TURNS = 10
HITS = 50
"""Passes over the cache in one batch, so that reading the clock doesn't count."""
GETS = 20


class Reads:
    """Sessions of ten turns that are in the cache as well as in the store."""

    def __init__(self, store: SessionStore, cache: L1Cache, session_ids: Sequence[str]) -> None:
        self._store = store
        self._cache = cache
        self._session_ids = session_ids

    @classmethod
    async def prepared(cls, store: SessionStore, fence: Fence) -> Self:
        conversations = [Conversation() for _ in range(SESSIONS)]
        await in_flight_s([commits(store, fence, conversation, TURNS) for conversation in conversations])
        cache = L1Cache(size=10_000, ttl_seconds=3_600)
        for conversation in conversations:
            session = await store.get(conversation.session_id)
            assert session is not None, "it was just written"
            cache.put(session, partition=0, lives_seconds=store.ttl_of(session))
        return cls(store, cache, [conversation.session_id for conversation in conversations])

    async def one_at_a_time(self, seconds: float) -> Figures:
        """What a read costs; both sides share `seconds`."""
        hits_us: list[float] = []
        gets_us: list[float] = []
        deadline = time.perf_counter() + seconds
        while not gets_us or time.perf_counter() < deadline:
            hits_us.append(self._hit_s() * 1e6)
            ids = self._session_ids[:GETS]
            gets = await one_at_a_time_s([[partial(self._store.get, session_id) for session_id in ids]])
            gets_us += [each * 1e6 for each in gets]
        return {"redis_get_us": median(gets_us), "l1_hit_us": median(hits_us)}

    def _hit_s(self) -> float:
        """The mean of many hits, the loop around them included."""
        get, session_ids = self._cache.get, self._session_ids
        begun = time.perf_counter()
        for _ in range(HITS):
            for session_id in session_ids:
                get(session_id)
        return (time.perf_counter() - begun) / (HITS * len(session_ids))
