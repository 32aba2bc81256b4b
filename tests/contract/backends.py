"""The backends of the session store, each made with the settings that a test asks for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from ops.local.redis import RedisServer
from store.connect import RedisSettings, connect
from store.memory import MemorySessionStore
from store.protocol import SessionStore
from store.redis import RedisSessionStore
from store.redis.sessions import LockSettings

DEADLINE_S = 10.0


class Time:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.begun = self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Backend:
    """Makes stores of one kind. Stores of one backend share what they hold only in Redis."""

    name: str
    prefix: str
    server: RedisServer | None
    clock: Time = field(default_factory=Time)
    made_at: float = field(default_factory=time.monotonic)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def store(self, *, ttl_seconds: float = 60.0, lease_seconds: float = 2.0, attempts: int = 1) -> SessionStore:
        made: SessionStore
        if self.server is None:
            made = MemorySessionStore(
                ttl_seconds=ttl_seconds, lock_timeout_seconds=lease_seconds * attempts, clock=self.clock
            )
        else:
            made = RedisSessionStore(
                connect(RedisSettings(self.server.url, socket_timeout=2.0)),
                ttl_seconds=ttl_seconds,
                key_prefix=self.prefix,
                lock=LockSettings(lease_seconds, attempts),
            )
        self.stack.push_async_callback(made.close)
        return made

    @property
    def age(self) -> float:
        """Seconds of the store's time since this backend was made."""
        return self.clock.now - self.clock.begun if self.server is None else time.monotonic() - self.made_at

    async def until(self, check: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not await check():
            assert time.monotonic() < deadline, "not within the deadline"
            if self.server is None:
                self.clock.now += 0.01
            await asyncio.sleep(0.01)
