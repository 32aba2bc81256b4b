"""Connections to Redis with what the store needs: a blocking pool, bounded waiting, retries that scripts survive."""

from dataclasses import dataclass

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How Redis is reached. Times in seconds."""

    url: str
    max_connections: int = 50
    socket_timeout: float = 5.0
    socket_connect_timeout: float = 5.0
    retry_on_timeout: bool = True
    health_check_interval: int = 30


def connect(settings: RedisSettings) -> Redis:
    """A client; it connects with the first command."""
    retryable = [RedisConnectionError, *([RedisTimeoutError] if settings.retry_on_timeout else [])]
    pool = BlockingConnectionPool.from_url(
        settings.url,
        max_connections=settings.max_connections,
        timeout=settings.socket_timeout,
        socket_timeout=settings.socket_timeout,
        socket_connect_timeout=settings.socket_connect_timeout,
        health_check_interval=settings.health_check_interval,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2),
        retry_on_error=retryable,
        decode_responses=False,
    )
    return Redis.from_pool(pool)
