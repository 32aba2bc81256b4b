"""What each form of Redis tells of its eviction policy and of the keys that it dropped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ops.local.ports import LOOPBACK
from ops.local.redis import RedisServer
from ops.local.redis_call import call
from ops.local.redis_cluster import RedisCluster
from ops.local.redis_sentinel import RedisSentinels
from store.errors import StoreUnavailable
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from store.redis.statistics import Eviction
from tests.full_redis import drop_keys


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisSessionStore]:
    store = RedisSessionStore(connect(RedisSettings(url)), ttl_seconds=60.0)
    try:
        yield store
    finally:
        await store.close()


async def test_one_server_tells_its_policy_and_what_it_dropped(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        async with opened(server.url) as store:
            assert await store.eviction() == Eviction(("noeviction",), 0)
            call(server.port, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            assert (await store.eviction()).dropping == ("allkeys-lru",)
            drop_keys(server.port)
            told = await store.eviction()
            assert told.evicted_keys > 0
            details = (await store.get_stats()).details
            assert details["maxmemory_policy"] == "allkeys-lru"
            assert int(details["evicted_keys"]) >= told.evicted_keys
        async with opened(f"redis://{LOOPBACK}:1/0") as store:
            with pytest.raises(StoreUnavailable):
                await store.eviction()


async def test_a_user_that_may_not_run_info_is_told_nothing_and_served(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        call(server.port, "ACL", "SETUSER", "few", "on", ">secret", "~*", "+@all", "-info")
        async with opened(f"redis://few:secret@{LOOPBACK}:{server.port}/0") as store:
            await store.ping()
            told = await store.eviction()
            assert told.policies == ()
            assert "INFO" in told.not_told
            assert "permission" in told.not_told.lower()
            stats = await store.get_stats()
            assert stats.connected
            assert "permission" in str(stats.details["info_refused"]).lower()


async def test_the_master_behind_sentinels_is_asked_also_after_a_failover(tmp_path: Path) -> None:
    with RedisSentinels(tmp_path, replicas=1, sentinels=3) as servers:
        call(servers.replicas[0].port, "CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
        async with opened(servers.url) as store:
            assert (await store.eviction()).policies == ("noeviction",)
            await asyncio.to_thread(servers.fail_over)
        async with opened(servers.url) as store:
            assert (await store.eviction()).dropping == ("volatile-ttl",)


async def test_every_master_of_a_cluster_is_asked(tmp_path: Path) -> None:
    with RedisCluster(tmp_path, masters=3) as cluster:
        url = f"redis+cluster://{LOOPBACK}:{cluster.servers[0].port}"
        async with opened(url) as store:
            assert await store.eviction() == Eviction(("noeviction",), 0)
        for server in cluster.servers:
            call(server.port, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            async with opened(url) as store:
                assert (await store.eviction()).policies == ("noeviction", "volatile-lru")
            call(server.port, "CONFIG", "SET", "maxmemory-policy", "noeviction")
