"""The backends of the session store, each made with the settings that a test asks for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from store.encryption import PlainText, SessionCipher, new_key
from store.locking import LockSettings
from store.memory import MemorySessionStore
from store.protocol import SessionStore
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect

DEADLINE_S = 10.0
KEY = new_key()


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
    redis: RedisSettings | None
    """None: in memory."""
    encrypted: bool = False
    clock: Time = field(default_factory=Time)
    made_at: float = field(default_factory=time.monotonic)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def store(self, *, ttl_seconds: float = 60.0, lease_seconds: float = 2.0, attempts: int = 1) -> SessionStore:
        made: SessionStore
        lock = LockSettings(lease_seconds, attempts)
        if self.redis is None:
            made = MemorySessionStore(ttl_seconds=ttl_seconds, lock=lock, clock=self.clock)
        else:
            made = RedisSessionStore(
                connect(replace(self.redis, socket_timeout=2.0)),
                ttl_seconds=ttl_seconds,
                key_prefix=self.prefix,
                lock=lock,
                cipher=SessionCipher([KEY]) if self.encrypted else PlainText(),
            )
        self.stack.push_async_callback(made.close)
        return made

    @property
    def age(self) -> float:
        """Seconds of the store's time since this backend was made."""
        return self.clock.now - self.clock.begun if self.redis is None else time.monotonic() - self.made_at

    async def until(self, check: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not await check():
            assert time.monotonic() < deadline, "not within the deadline"
            if self.redis is None:
                self.clock.now += 0.01
            await asyncio.sleep(0.01)
