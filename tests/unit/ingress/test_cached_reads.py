"""The ingress's cache of sessions is never older than the events that have come by."""

import asyncio

from schemas.session import SessionData
from store.cached import CachedReads
from store.l1 import L1Cache
from store.memory import MemorySessionStore
from tests.contract.sessions import commit, session


class SlowStore(MemorySessionStore):
    """Answers with what it had when it was asked, when it is told to."""

    def __init__(self) -> None:
        super().__init__(ttl_seconds=60)
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, session_id: str) -> SessionData | None:
        self.reads += 1
        found = await super().get(session_id)
        await self.gate.wait()
        return found


def cached(store: MemorySessionStore, *, size: int = 10) -> tuple[CachedReads, L1Cache]:
    cache = L1Cache(size=size, ttl_seconds=60)
    return CachedReads(store, cache, clock=lambda: session().expires_at(0)), cache


async def test_the_store_is_asked_once_until_an_event_comes_by() -> None:
    store = SlowStore()
    reads, _ = cached(store)
    await commit(store, session())
    assert await reads.get("s1") == await reads.get("s1") == session()
    assert store.reads == 1
    await commit(store, session(seq=2))
    reads.forget("s1")
    assert await reads.get("s1") == session(seq=2)


async def test_what_an_event_overtook_is_not_kept() -> None:
    """The read began before the change and ended after its event."""
    store = SlowStore()
    reads, cache = cached(store)
    await commit(store, session())
    store.gate.clear()
    reading = asyncio.create_task(reads.get("s1"))
    await asyncio.sleep(0)
    await commit(store, session(seq=2))
    reads.forget("s1")
    store.gate.set()
    assert await reading == session()
    assert len(cache) == 0
    assert await reads.get("s1") == session(seq=2)


async def test_a_session_that_is_not_there_is_asked_for_again() -> None:
    store = SlowStore()
    reads, _ = cached(store)
    assert not await reads.exists("s1")
    await commit(store, session())
    assert await reads.exists("s1")


async def test_the_figures_tell_size_and_hit_rate() -> None:
    store = SlowStore()
    reads, cache = cached(store)
    await commit(store, session())
    for _ in range(4):
        await reads.get("s1")
    assert cache.describe() == {"l1_cache_size": 1, "l1_cache_hit_rate": 0.75}
