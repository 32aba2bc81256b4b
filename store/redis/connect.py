"""Connections to Redis in each form that it runs in, with bounded waiting and retries that scripts survive."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from store.redis.address import RedisAddress, parse_address
from store.redis.cluster_link import ClusterLink
from store.redis.pool_link import PoolLink
from store.redis.round_trips import Link
from store.redis.server_watch import ServerWatch

_LINKS = 2
"""Redis has the next group at hand when it is done with one; more links only make the groups smaller (measured)."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How Redis is reached. Times in seconds."""

    url: str
    """In one of the forms of `store.redis.address`."""
    max_connections: int = 50
    socket_timeout: float = 5.0
    socket_connect_timeout: float = 5.0
    retry_on_timeout: bool = True
    health_check_interval: int = 30
    wait_replicas: int = 0
    """Replicas that must have a write before it counts; 0: the master is enough. Not with a cluster."""
    watch_for_loss: bool = False
    """Refuse a server that is another than before, until it is accepted (`StoreReplaced`)."""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class RedisConnections:
    """A client for what is asked now and then, and the links of the hot path."""

    client: Any
    """`redis.asyncio.Redis` or `RedisCluster`."""
    links: Sequence[Link]
    close: Callable[[], Awaitable[None]]
    watch_for_loss: bool = False


def connect(settings: RedisSettings) -> RedisConnections:
    """It connects with the first command. Raises ValueError for a bad address."""
    address = parse_address(settings.url)
    if address.form == "cluster":
        return _cluster(address, settings)
    if address.form == "sentinel":
        return _sentinel(address, settings)
    pool = BlockingConnectionPool.from_url(
        address.url,
        max_connections=settings.max_connections,
        timeout=settings.socket_timeout,
        retry=_retry(),
        retry_on_error=_retryable(settings),
        **_options(address, settings),
    )
    client = Redis.from_pool(pool)
    return RedisConnections(client, _pool_links(pool, settings, None), client.aclose, settings.watch_for_loss)


def _sentinel(address: RedisAddress, settings: RedisSettings) -> RedisConnections:
    sentinel_options = {
        "socket_timeout": settings.socket_timeout,
        "socket_connect_timeout": settings.socket_connect_timeout,
        **_tls(address, settings, flag=True),
    }
    manager = Sentinel(address.hosts, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.master_name,
        manager,
        max_connections=settings.max_connections,
        db=address.database,
        username=address.username,
        password=address.password,
        retry=_retry(),
        retry_on_error=_retryable(settings),
        ssl=address.tls,
        **_options(address, settings),
    )
    client = Redis.from_pool(pool)

    async def master() -> tuple[str, int]:
        found: tuple[str, int] = await pool.get_master_address()  # type: ignore[no-untyped-call]
        return found

    async def close() -> None:
        await client.aclose()
        for sentinel in manager.sentinels:
            await sentinel.aclose()

    return RedisConnections(client, _pool_links(pool, settings, master), close, settings.watch_for_loss)


def _cluster(address: RedisAddress, settings: RedisSettings) -> RedisConnections:
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
        max_connections=settings.max_connections,
        username=address.username,
        password=address.password,
        retry=_retry(),
        ssl=address.tls,
        **_options(address, settings),
    )
    link = ClusterLink(client, watch=ServerWatch(strict=settings.watch_for_loss))
    # One object twice: it takes the connections of each exchange from the client's pools.
    return RedisConnections(client, [link] * _LINKS, client.aclose, settings.watch_for_loss)


def _pool_links(
    pool: Any, settings: RedisSettings, master: Callable[[], Awaitable[tuple[str, int]]] | None
) -> list[PoolLink]:
    watch = ServerWatch(strict=settings.watch_for_loss)
    return [
        PoolLink(
            pool,
            time_limit=settings.socket_timeout,
            watch=watch,
            retry_on_timeout=settings.retry_on_timeout,
            wait_replicas=settings.wait_replicas,
            master=master,
        )
        for _ in range(_LINKS)
    ]


def _options(address: RedisAddress, settings: RedisSettings) -> dict[str, Any]:
    return {
        "socket_timeout": settings.socket_timeout,
        "socket_connect_timeout": settings.socket_connect_timeout,
        "health_check_interval": settings.health_check_interval,
        "decode_responses": False,
        **_tls(address, settings, flag=False),
    }


def _tls(address: RedisAddress, settings: RedisSettings, *, flag: bool) -> dict[str, Any]:
    if not address.tls:
        return {}
    files = {
        "ssl_ca_certs": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }
    return {**({"ssl": True} if flag else {}), **{name: path for name, path in files.items() if path is not None}}


def _retry() -> Retry:
    return Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2)


def _retryable(settings: RedisSettings) -> list[type[Exception]]:
    return [RedisConnectionError, *([RedisTimeoutError] if settings.retry_on_timeout else [])]
