"""Sessions in Redis: one hash and one list each, under one hash tag; each write is one Lua script."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson
from redis.asyncio import Redis
from redis.exceptions import LockError as RedisLockError
from redis.exceptions import LockNotOwnedError, RedisError

from schemas.session import RECENT_EVENTS, SessionData
from store.errors import CorruptSession, LockLost, LockTimeout, StoreUnavailable
from store.protocol import Already, Applied, CommitOutcome, Fence, Fenced, Stale, Stored, StoreStats
from store.redis.round_trips import RoundTrips
from store.redis.scripts import COMMIT_TURN, NEXT_FENCE, SAVE_PROGRESS


@dataclass(frozen=True, slots=True)
class LockSettings:
    """How long a lock is held and waited for."""

    lease_seconds: float = 10.0
    retry_attempts: int = 3
    """Each waits `lease_seconds` at most."""


class RedisSessionStore:
    """Keeps the promises of `store.protocol.SessionStore` in Redis 6.2 or later.

    `client` should use a blocking connection pool and not decode responses; it is closed with the store.
    """

    def __init__(
        self,
        client: Redis,
        *,
        ttl_seconds: float,
        key_prefix: str = "agent:session:",
        lock: LockSettings | None = None,
    ) -> None:
        self._client = client
        pool = client.connection_pool
        self._round_trips = RoundTrips(pool, time_limit=pool.connection_kwargs["socket_timeout"])
        self._ttl_ms = int(ttl_seconds * 1000)
        self._prefix = key_prefix
        self._lock = lock or LockSettings()

    async def load(self, session_id: str) -> Stored | None:
        state, writer = await self._round_trips.run("HMGET", self._session_key(session_id), "state", "writer")
        if state is None:
            return None
        return Stored(self._decode(session_id, state), "lock" if writer == b"lock" else "partition")

    async def get(self, session_id: str) -> SessionData | None:
        stored = await self.load(session_id)
        return stored.session if stored and not stored.session.deleted else None

    async def exists(self, session_id: str) -> bool:
        return await self.get(session_id) is not None

    async def commit_turn(
        self, session: SessionData, *, expected_version: int, event_id: str, fence: Fence, reply: bytes
    ) -> CommitOutcome:
        outcome = await self._round_trips.run_script(
            COMMIT_TURN,
            [self._session_key(session.session_id), self._events_key(session.session_id)],
            [
                expected_version,
                fence.kind,
                fence.token,
                event_id,
                session.version,
                session.to_json(),
                reply,
                self._ttl_ms,
                RECENT_EVENTS,
                int(session.deleted or session.seq == 1),
            ],
        )
        match outcome[0]:
            case b"APPLIED":
                return Applied()
            case b"ALREADY":
                return Already(outcome[1])
            case b"STALE":
                return Stale(int(outcome[1]))
            case b"FENCED":
                return Fenced(int(outcome[1]))
        raise CorruptSession(f"commit_turn answered {outcome!r}")

    async def newest_event(self, session_id: str) -> bytes | None:
        newest: bytes | None = await self._round_trips.run("LINDEX", self._events_key(session_id), -1)
        return newest

    async def events(self, session_id: str, after_seq: int = 0) -> Sequence[bytes]:
        events: list[bytes] = await self._round_trips.run("LRANGE", self._events_key(session_id), 0, -1)
        if not events:
            return []
        newest_seq: int = orjson.loads(events[-1])["seq"]
        missing = max(0, newest_seq - after_seq)
        return events[-missing:] if missing else []

    async def next_fence(self) -> int:
        return int(await self._round_trips.run_script(NEXT_FENCE, [f"{self._prefix}fence"], []))

    @asynccontextmanager
    async def lock(self, session_id: str) -> AsyncIterator[Fence]:
        lock = self._client.lock(
            f"{self._session_key(session_id)}:lock",
            timeout=self._lock.lease_seconds,
            blocking_timeout=self._lock.lease_seconds * self._lock.retry_attempts,
            sleep=0.02,
        )
        try:
            if not await lock.acquire():
                waited = self._lock.lease_seconds * self._lock.retry_attempts
                raise LockTimeout(f"The lock of session {session_id} was not free in {waited:g} s.")
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"Redis does not answer: {error}") from error
        # Asked for while the lock is held: whoever gets the lock later has a larger token.
        fence = Fence("lock", await self.next_fence())
        try:
            yield fence
        finally:
            try:
                await lock.release()
            except LockNotOwnedError as error:
                raise LockLost(f"The lease of session {session_id}'s lock ended while it was held.") from error
            except (RedisLockError, RedisError, OSError) as error:
                raise StoreUnavailable(f"The lock of session {session_id} was not released: {error}") from error

    async def save_progress(self, offsets: Mapping[str, int]) -> None:
        if offsets:
            args = [part for item in offsets.items() for part in item]
            await self._round_trips.run_script(SAVE_PROGRESS, [f"{self._prefix}progress"], args)

    async def progress(self, partitions: Sequence[str]) -> dict[str, int]:
        if not partitions:
            return {}
        offsets = await self._round_trips.run("HMGET", f"{self._prefix}progress", *partitions)
        return {
            partition: int(offset) for partition, offset in zip(partitions, offsets, strict=True) if offset is not None
        }

    async def stats(self) -> StoreStats:
        try:
            info = await self._client.info()
        except (RedisError, OSError) as error:
            return StoreStats("redis", False, {"error": str(error)})
        shown = ("redis_version", "connected_clients", "used_memory_human", "total_commands_processed")
        return StoreStats("redis", True, {name: info[name] for name in shown if name in info})

    async def ping(self) -> None:
        await self._round_trips.run("PING")

    async def close(self) -> None:
        await self._round_trips.close()
        await self._client.aclose()

    def _session_key(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_id}}}"

    def _events_key(self, session_id: str) -> str:
        return f"{self._prefix}{{{session_id}}}:events"

    def _decode(self, session_id: str, state: bytes) -> SessionData:
        try:
            session = SessionData.from_json(state)
        except (orjson.JSONDecodeError, TypeError, KeyError) as error:
            raise CorruptSession(f"The stored session {session_id} can't be read: {error}") from error
        if session.session_id != session_id:
            raise CorruptSession(f"The state stored for session {session_id} belongs to another session.")
        return session
