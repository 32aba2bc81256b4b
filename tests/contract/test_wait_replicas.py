"""REDIS_WAIT_REPLICAS: a write counts once replicas have it, so a failover can't lose what was published."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

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
async def store(servers: RedisSentinels) -> AsyncIterator[RedisSessionStore]:
    settings = RedisSettings(servers.url, socket_timeout=1.0, wait_replicas=2)
    made = RedisSessionStore(connect(settings), ttl_seconds=60)
    yield made
    await made.close()


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


async def test_an_attempt_that_is_repeated_counts_once_the_replicas_are_back(
    store: RedisSessionStore, servers: RedisSentinels
) -> None:
    """D: with the bytes that were stored first."""
    await commit(store, session())
    for replica in servers.replicas:
        replica.server.pause()
    with pytest.raises(StoreUnavailable):
        await commit(store, session(seq=2), mark="first")
    for replica in servers.replicas:
        replica.server.resume()
    assert await commit(store, session(seq=2), mark="second") == Already(reply_of(session(seq=2), "first"))
