"""One suite over every backend of the session store."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from ops.local.redis_cluster import RedisCluster
from ops.local.redis_sentinel import RedisSentinels
from ops.local.redis_tls import RedisTls
from store.protocol import SessionStore
from store.redis.connect import RedisSettings
from tests.contract.backends import Backend

FAIL_OVER_AT = 12
"""The test of the suite before which the sentinels' master is replaced."""


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisTls]:
    """A server that speaks TLS to clients with a certificate, and lets its user do little (`ops.local.redis_tls`)."""
    with RedisTls(tmp_path_factory.mktemp("tls"), key_prefix="test-") as server:
        yield server


class Sentinels:
    """A Redis behind sentinels that fails over in the middle of the suite."""

    def __init__(self, servers: RedisSentinels) -> None:
        self.servers = servers
        self.uses = 0

    def use(self) -> None:
        self.uses += 1
        if self.uses == FAIL_OVER_AT:
            self.servers.fail_over()


@pytest.fixture(scope="session")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with RedisSentinels(tmp_path_factory.mktemp("sentinels")) as servers:
        yield Sentinels(servers)


def tls_settings(server: RedisTls) -> RedisSettings:
    return RedisSettings(
        server.url,
        ca_file=str(server.ca_file),
        cert_file=str(server.client_cert_file),
        key_file=str(server.client_key_file),
    )


@pytest.fixture(params=["memory", "redis", "encrypted", "cluster", "sentinel", "tls"])
async def backend(request: pytest.FixtureRequest, redis_prefix: str) -> AsyncIterator[Backend]:
    settings: RedisSettings | None = None
    match request.param:
        case "redis" | "encrypted":
            settings = RedisSettings(request.getfixturevalue("redis_server").url)
        case "cluster":
            address = request.getfixturevalue("redis_cluster").url.removeprefix("redis://")
            settings = RedisSettings(f"redis+cluster://{address}")
        case "sentinel":
            sentinels = request.getfixturevalue("sentinels")
            await asyncio.to_thread(sentinels.use)
            settings = RedisSettings(sentinels.servers.url)
        case "tls":
            settings = tls_settings(request.getfixturevalue("redis_tls"))
    made = Backend(request.param, redis_prefix, settings, encrypted=request.param == "encrypted")
    async with made.stack:
        yield made


@pytest.fixture
def store(backend: Backend) -> SessionStore:
    return backend.store()
