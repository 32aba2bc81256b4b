"""The product's store as a worker opens it, on a Redis that nobody else uses."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

from ops.local.redis import RedisServer
from store.encryption import Cipher
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect

TTL_SECONDS = 3_600.0
"""Longer than any bench."""


@contextmanager
def redis_alone() -> Iterator[str]:
    """The URL of a Redis in a temporary directory; both are gone afterwards.

    Raises ServerError when redis-server is missing.
    """
    with tempfile.TemporaryDirectory(prefix="supportstream-bench-") as name, RedisServer(Path(name)) as redis:
        yield redis.url


@asynccontextmanager
async def opened(url: str, cipher: Cipher) -> AsyncIterator[RedisSessionStore]:
    """A store with keys of its own on the Redis at `url`, with the limits that a worker has without settings."""
    connections = connect(RedisSettings(url, watch_for_loss=True))
    store = RedisSessionStore(
        connections, ttl_seconds=TTL_SECONDS, key_prefix=f"bench-{uuid4().hex[:8]}:", cipher=cipher
    )
    try:
        await store.accept_server()
        yield store
    finally:
        await store.close()
