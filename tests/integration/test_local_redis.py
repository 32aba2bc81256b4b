"""Redis in the other forms that users run: a cluster, a master with sentinels, TLS with few rights."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.exceptions import AuthenticationError, MovedError, NoPermissionError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ops.local.ports import LOOPBACK
from ops.local.process import ServerError
from ops.local.redis_cluster import RedisCluster as LocalCluster
from ops.local.redis_sentinel import RedisSentinels
from ops.local.redis_tls import USER, RedisTls

PREFIX = "agent:session:"
KEYS = [f"{PREFIX}{{{n}}}" for n in range(12)]
WAIT_MS = 10_000
PATIENT: dict[str, Any] = {"socket_timeout": 2 * WAIT_MS / 1000}
"""A client that waits for replicas must not give up on the answer before WAIT itself does."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), masters=3) as started:
        yield started


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[RedisSentinels]:
    with RedisSentinels(tmp_path, replicas=2, sentinels=3) as started:
        yield started


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisTls]:
    with RedisTls(tmp_path_factory.mktemp("tls"), key_prefix=PREFIX) as started:
        yield started


def once(port: int, scheme: str = "redis", **options: Any) -> Redis:
    """A client that neither retries nor asks anyone else."""
    return Redis.from_url(f"{scheme}://{LOOPBACK}:{port}", retry=None, **PATIENT, **options)


def discovery_of(sentinels: RedisSentinels) -> Sentinel:
    return Sentinel(sentinels.sentinel_addresses)  # type: ignore[no-untyped-call]  # redis-py has no types for it


def tls_client(server: RedisTls) -> Redis:
    return Redis.from_url(
        server.url,
        ssl_ca_certs=str(server.ca_file),
        ssl_certfile=str(server.client_cert_file),
        ssl_keyfile=str(server.client_key_file),
    )


async def test_a_cluster_client_finds_each_key_at_its_owner(cluster: LocalCluster) -> None:
    async with RedisCluster.from_url(cluster.url) as client:
        for key in KEYS:
            await client.set(key, key)
        assert [await client.get(key) for key in KEYS] == [key.encode() for key in KEYS]
    held = []
    for server in cluster.servers:
        async with once(server.port) as client:
            held.append(set(await client.keys()))
    assert all(held)
    assert sum(map(len, held)) == len(KEYS)


async def test_a_cluster_node_names_the_owner_of_a_key_that_is_not_its_own(cluster: LocalCluster) -> None:
    redirections = []
    for server in cluster.servers:
        async with once(server.port) as client:
            try:
                await client.get(KEYS[0])
            except MovedError as moved:
                redirections.append(moved.port)
    [owner] = {server.port for server in cluster.servers}.intersection(redirections)
    assert redirections == [owner] * 2


def test_a_cluster_can_be_started_again(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, masters=2)
    for _ in range(2):
        with cluster:
            assert all(server.server.running for server in cluster.servers)
        assert not any(server.server.running for server in cluster.servers)


async def test_clients_of_the_sentinels_reach_the_promoted_replica(sentinels: RedisSentinels) -> None:
    old = sentinels.master
    async with discovery_of(sentinels) as discovery:
        async with discovery.master_for(sentinels.master_name, **PATIENT) as client:
            await client.set("before", 1)
            assert await client.wait(2, WAIT_MS) == 2

        new = await asyncio.to_thread(sentinels.fail_over)

        assert new is sentinels.master
        assert new is not old
        assert old in sentinels.replicas
        assert await discovery.discover_master(sentinels.master_name) == (LOOPBACK, new.port)
        async with discovery.master_for(sentinels.master_name, **PATIENT) as client:
            assert await client.get("before") == b"1"
            await client.set("after", 2)
    async with once(new.port) as client:
        assert await client.get("after") == b"2"

    await asyncio.to_thread(sentinels.wait_for_replicas)
    async with once(old.port) as client:
        assert await client.get("after") == b"2"
        with pytest.raises(ReadOnlyError):
            await client.set("before", 2)


async def test_what_only_the_killed_master_had_is_lost(sentinels: RedisSentinels) -> None:
    old = sentinels.master
    async with once(old.port, single_connection_client=True) as client:
        await client.set("replicated", 1)
        assert await client.wait(2, WAIT_MS) == 2
        await asyncio.to_thread(sentinels.stop_replication)
        assert await client.set("acknowledged", 1)
        assert await client.wait(1, 100) == 0

    sentinels.kill_master()
    new = await asyncio.to_thread(sentinels.wait_for_new_master)

    assert new is not old
    assert not old.server.running
    async with discovery_of(sentinels) as discovery, discovery.master_for(sentinels.master_name, **PATIENT) as client:
        assert await client.get("replicated") == b"1"
        assert await client.get("acknowledged") is None
        await client.set("replicated", 2)
        assert await client.wait(1, WAIT_MS) == 1


def test_no_new_master_in_time_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="agreed on no new master in time"):
        RedisSentinels(tmp_path).wait_for_new_master(deadline_s=0.1)


async def test_tls_serves_what_a_session_store_asks(tls: RedisTls) -> None:
    key = PREFIX + "{1}"
    async with tls_client(tls) as client:
        assert await client.hset(key, "version", "1") == 1
        assert await client.rpush(key + ":events", "a", "b") == 2
        assert await client.set(key + ":lock", "token", nx=True, px=60_000)
        sha = await client.script_load("return redis.call('PEXPIRE', KEYS[1], 60000)")
        assert await client.evalsha(sha, 1, key) == 1
        assert await client.delete(key + ":events") == 1
        assert await client.wait(0, 1) == 0
        assert (await client.info())["connected_clients"] >= 1
        async with client.lock(key + ":lease", timeout=10):
            pass


async def test_tls_takes_no_plain_text(tls: RedisTls) -> None:
    async with once(tls.port) as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()


async def test_tls_takes_no_client_without_certificate(tls: RedisTls) -> None:
    async with once(tls.port, "rediss", ssl_ca_certs=str(tls.ca_file)) as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()


async def test_the_certificates_are_not_trusted_without_their_ca(tls: RedisTls) -> None:
    async with once(tls.port, "rediss") as client:
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.ping()


async def test_nobody_is_served_without_a_password(tls: RedisTls) -> None:
    certificate = {"ssl_certfile": str(tls.client_cert_file), "ssl_keyfile": str(tls.client_key_file)}
    async with once(tls.port, "rediss", ssl_ca_certs=str(tls.ca_file), **certificate) as client:
        with pytest.raises(AuthenticationError):
            await client.ping()


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "CONFIG GET requirepass",
        f"ACL SETUSER {USER} +@all",
        "CLIENT LIST",
        "SHUTDOWN NOSAVE",
        f"SORT {PREFIX}1",
        "PUBLISH channel hello",
    ],
)
async def test_the_user_may_not(tls: RedisTls, command: str) -> None:
    async with tls_client(tls) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command.split())  # type: ignore[no-untyped-call]


async def test_the_user_reaches_no_keys_beside_the_prefix(tls: RedisTls) -> None:
    async with tls_client(tls) as client:
        with pytest.raises(NoPermissionError):
            await client.get("agent:other")
        with pytest.raises(NoPermissionError):
            await client.hset("agent:other", "version", "1")
        sha = await client.script_load("return redis.call('SET', 'agent:other', '1')")
        with pytest.raises(ResponseError, match="can't access at least one of the keys"):
            await client.evalsha(sha, 1, PREFIX + "1")
