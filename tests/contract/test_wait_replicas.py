"""REDIS_WAIT_REPLICAS: a write counts once replicas have it, so a failover can't lose what was published."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ops.local.redis import RedisServer
from ops.local.redis_sentinel import RedisSentinels
from store.errors import StoreUnavailable
from store.protocol import Already, Applied
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from tests.contract.sessions import commit, reply_of, session


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisSentinels]:
    with RedisSentinels(tmp_path, sentinels=1) as servers:
        yield servers


@pytest.fixture
async def new_store(servers: RedisSentinels) -> AsyncIterator[Callable[[], RedisSessionStore]]:
    """Makes stores with connections of their own, as another worker, or this one after a reset, has them."""
    async with AsyncExitStack() as stack:

        def make() -> RedisSessionStore:
            settings = RedisSettings(servers.url, socket_timeout=1.0, wait_replicas=2)
            made = RedisSessionStore(connect(settings), ttl_seconds=60)
            stack.push_async_callback(made.close)
            return made

        yield make


@pytest.fixture
def store(new_store: Callable[[], RedisSessionStore]) -> RedisSessionStore:
    return new_store()


async def test_a_write_counts_when_the_replicas_have_it_and_not_before(
    store: RedisSessionStore, servers: RedisSentinels
) -> None:
    """L, R"""
    outcomes = await asyncio.gather(*(commit(store, session(f"s{n}")) for n in range(20)))
    assert outcomes == [Applied()] * 20
    await asyncio.to_thread(servers.stop_replication)
    for _ in range(2):
        # The second attempt finds its own write, which is still on the master only.
        with pytest.raises(StoreUnavailable, match="0 of 2 replicas"):
            await commit(store, session("s1", seq=2))
    assert await store.get("s1") == session("s1", seq=2), "reading waits for nobody"


async def test_finding_a_turn_done_writes_to_its_session(redis_server: RedisServer, redis_prefix: str) -> None:
    """L, R: what WAIT promises is about the writes of its own connection, and a repeated attempt has another one."""
    connections = connect(RedisSettings(redis_server.url))
    store = RedisSessionStore(connections, ttl_seconds=60, key_prefix=redis_prefix)
    await commit(store, session(), mark="first")
    key = f"{redis_prefix}{{s1}}"
    assert await connections.client.pexpire(key, 10_000), "the session has another key"
    assert await commit(store, session(), mark="second") == Already(reply_of(session(), "first"))
    assert await connections.client.pttl(key) > 50_000
    await store.close()


async def test_an_attempt_that_is_repeated_counts_once_the_replicas_are_back(
    new_store: Callable[[], RedisSessionStore], servers: RedisSentinels
) -> None:
    """D: with the bytes that were stored first."""
    first, again = new_store(), new_store()
    await commit(first, session())
    for replica in servers.replicas:
        replica.server.pause()
    with pytest.raises(StoreUnavailable):
        await commit(first, session(seq=2), mark="first")
    # Over another connection, as after a reset, it is not done either.
    with pytest.raises(StoreUnavailable):
        await commit(again, session(seq=2), mark="second")
    for replica in servers.replicas:
        replica.server.resume()
    assert await commit(again, session(seq=2), mark="third") == Already(reply_of(session(seq=2), "first"))
    # What counts is there after a failover as well.
    await asyncio.to_thread(servers.fail_over)
    assert await new_store().events("s1") == [reply_of(session()), reply_of(session(seq=2), "first")]
