"""Sessions in Redis: one hash and one list each, under one hash tag; each write is one Lua script."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import orjson

from schemas.session import EARLIER_IDS_MS, RECENT_EVENTS, SessionData
from store.encryption import Cipher, PlainText
from store.errors import CorruptSession, StoreReplaced
from store.locking import DEFAULT_LOCK, LockSettings, no_locks
from store.protocol import (
    Already,
    Answered,
    Applied,
    CommitOutcome,
    Fence,
    Fenced,
    FenceKind,
    PushedOut,
    Restorable,
    RestoreOutcome,
    Stale,
    Stored,
    StoreStats,
)
from store.redis.active import ActiveSessions
from store.redis.connect import RedisConnections
from store.redis.keys import Keys, digest_of_id
from store.redis.round_trips import Command, RoundTrips
from store.redis.scan import session_id_pages
from store.redis.scripts import COMMIT_TURN, NEXT_FENCE, RESTORE, SAVE_PROGRESS
from store.redis.state import open_state
from store.redis.statistics import Eviction, eviction, server_statistics
from store.redlock import Redlock

_INCARNATION = "incarnation"
"""Beside the progress, a mark that is made once: where it is gone, everything is."""
_FLUSHED = "Redis was flushed, and lacks acknowledged writes."


_GROUP = 256
"""Commands in one round trip, of those that come in hundreds."""
_WRITERS: dict[bytes | None, FenceKind] = {b"partition": "partition", b"lock": "lock", b"direct": "direct"}


class RedisSessionStore:
    """Keeps the promises of `store.protocol.SessionStore` in Redis 6.2 or later. `connections` and `lock_nodes` are
    closed with it.

    `lock_nodes` are clients of the lock's nodes, where they are others than Redis itself; `lock` None: no locks.
    """

    def __init__(
        self,
        connections: RedisConnections,
        *,
        ttl_seconds: float,
        key_prefix: str = "agent:session:",
        lock: LockSettings | None = DEFAULT_LOCK,
        lock_nodes: Sequence[Any] = (),
        cipher: Cipher | None = None,
    ) -> None:
        self._connections = connections
        self._lock_nodes = lock_nodes
        self._round_trips = RoundTrips(connections.links)
        self._ttl_seconds = ttl_seconds
        self._keys = Keys(key_prefix)
        self._cipher = cipher or PlainText()
        self._incarnation: bytes | None = None
        self._active = ActiveSessions(connections.client, self._keys)
        self.locks = (
            Redlock(
                lock_nodes or [connections.client], key_prefix=key_prefix, settings=lock, next_fence=self.next_fence
            )
            if lock is not None
            else None
        )

    async def load(self, session_id: str) -> Stored | None:
        state, writer = await self._round_trips.run("HMGET", self._keys.session(session_id), "state", "writer")
        if state is None:
            await self._check_incarnation()
            return None
        return Stored(open_state(self._cipher, session_id, state), _WRITERS.get(writer, "partition"))

    async def get(self, session_id: str) -> SessionData | None:
        stored = await self.load(session_id)
        return stored.session if stored and not stored.session.deleted else None

    async def exists(self, session_id: str) -> bool:
        return await self.get(session_id) is not None

    async def commit_turn(
        self,
        session: SessionData,
        *,
        expected_version: int,
        event_id: str,
        fence: Fence,
        reply: bytes,
        answers: str = "",
        pushed_out: PushedOut = (),
    ) -> CommitOutcome:
        session_id, seal = session.session_id, self._cipher.seal
        outcome = await self._round_trips.run_script(
            COMMIT_TURN,
            self._keys_of(session_id),
            [
                expected_version,
                fence.kind,
                fence.token,
                event_id,
                session.version,
                seal(session_id, session.to_json()),
                seal(session_id, reply),
                int(self.ttl_of(session) * 1000),
                RECENT_EVENTS,
                int(session.deleted or session.seq == 1),
                self._cipher.key_id,
                session.epoch,
                int(session.seq > 1),
                digest_of_id(answers) if answers else "",
                pushed_out[-1][1] if pushed_out else 0,
                EARLIER_IDS_MS,
                *(digest_of_id(inbound_id) for inbound_id, _ in pushed_out),
            ],
        )
        match outcome[0]:
            case b"APPLIED":
                return Applied()
            case b"ALREADY":
                return Already(self._cipher.open(session_id, outcome[1]))
            case b"ANSWERED":
                return Answered()
            case b"STALE":
                return Stale(int(outcome[1]))
            case b"FENCED":
                return Fenced(int(outcome[1]))
        raise CorruptSession(f"commit_turn answered {outcome!r}")

    async def newest_event(self, session_id: str) -> bytes | None:
        newest: bytes | None = await self._round_trips.run("LINDEX", self._keys.events(session_id), -1)
        return None if newest is None else self._cipher.open(session_id, newest)

    async def events(self, session_id: str, after_seq: int = 0) -> Sequence[bytes]:
        sealed: list[bytes] = await self._round_trips.run("LRANGE", self._keys.events(session_id), 0, -1)
        if not sealed:
            return []
        newest = self._cipher.open(session_id, sealed[-1])
        newest_seq: int = orjson.loads(newest)["seq"]
        missing = min(len(sealed), max(0, newest_seq - after_seq))
        if not missing:
            return []
        older = sealed[len(sealed) - missing : -1]
        return [*(self._cipher.open(session_id, event) for event in older), newest]

    async def load_whole(self, session_ids: Sequence[str]) -> list[tuple[SessionData | None, Sequence[bytes]]]:
        commands: list[Command] = []
        for each in session_ids:
            commands += [("HGET", self._keys.session(each), "state"), ("LRANGE", self._keys.events(each), 0, -1)]
        found = await self._in_groups(commands)
        whole: list[tuple[SessionData | None, Sequence[bytes]]] = []
        for session_id, state, sealed in zip(session_ids, found[::2], found[1::2], strict=True):
            if state is None:
                whole.append((None, ()))
                continue
            events = [self._cipher.open(session_id, event) for event in sealed]
            whole.append((open_state(self._cipher, session_id, state), events))
        if any(state is None for state in found[::2]):
            await self._check_incarnation()
        return whole

    async def restore(self, lost: Sequence[Restorable], fence: Fence) -> list[RestoreOutcome]:
        outcomes = await self._in_groups([self._restoring(each, fence) for each in lost])
        return [_restored(outcome) for outcome in outcomes]

    def _restoring(self, lost: Restorable, fence: Fence) -> Command:
        session, seal = lost.session, self._cipher.seal
        keys = self._keys_of(session.session_id)
        return (
            "EVALSHA",
            RESTORE.sha,
            len(keys),
            *keys,
            session.version,
            fence.kind,
            fence.token,
            lost.event_id,
            seal(session.session_id, session.to_json()),
            max(1, int(lost.ttl_seconds * 1000)),
            self._cipher.key_id,
            session.epoch,
            EARLIER_IDS_MS,
            2 * len(lost.pushed_out),
            *(part for inbound_id, at_ms in lost.pushed_out for part in (at_ms, digest_of_id(inbound_id))),
            *(seal(session.session_id, event) for event in lost.events),
        )

    async def _in_groups(self, commands: list[Command]) -> list[Any]:
        """The responses to many commands, in few round trips."""
        groups = [commands[n : n + _GROUP] for n in range(0, len(commands), _GROUP)]
        found = await asyncio.gather(*(self._round_trips.run_group(group) for group in groups))
        return [response for responses in found for response in responses]

    def _keys_of(self, session_id: str) -> list[str]:
        keys = self._keys
        return [keys.session(session_id), keys.events(session_id), keys.earlier_ids(session_id)]

    def ttl_of(self, session: SessionData) -> float:
        return session.ttl_seconds or self._ttl_seconds

    async def accept_server(self) -> str:
        self._round_trips.accept_server()
        if not self._connections.watch_for_loss:
            return ""
        await self._round_trips.run("HSETNX", self._keys.progress, _INCARNATION, uuid4().hex)
        self._incarnation = await self._round_trips.run("HGET", self._keys.progress, _INCARNATION)
        return f"{self._round_trips.server}/{(self._incarnation or b'').decode()}"

    async def _check_incarnation(self) -> None:
        """Before a session counts as new: were all of them forgotten? A flush changes neither server nor run id.

        Raises:
            StoreReplaced: what this store was when it was accepted is gone.
        """
        if self._incarnation is not None:
            known = await self._round_trips.run("HGET", self._keys.progress, _INCARNATION)
            if known != self._incarnation:
                raise StoreReplaced(_FLUSHED)

    async def next_fence(self) -> int:
        return int(await self._round_trips.run_script(NEXT_FENCE, [self._keys.fence], []))

    def lock(self, session_id: str) -> AbstractAsyncContextManager[Fence]:
        return self.locks.hold(session_id) if self.locks is not None else no_locks()

    def describe_locks(self) -> dict[str, int | float | bool]:
        return {"enabled": self.locks is not None, **(self.locks.describe() if self.locks else {"active": 0})}

    async def test_locks(self) -> None:
        if self.locks is not None:
            await self.locks.self_test()

    async def save_progress(self, offsets: Mapping[str, int]) -> None:
        if offsets:
            args = [self._incarnation or "", *(part for item in offsets.items() for part in item)]
            if await self._round_trips.run_script(SAVE_PROGRESS, [self._keys.progress], args) == b"REPLACED":
                raise StoreReplaced(_FLUSHED)

    async def progress(self, partitions: Sequence[str]) -> dict[str, int]:
        if not partitions:
            return {}
        offsets = await self._round_trips.run("HMGET", self._keys.progress, *partitions)
        return {
            partition: int(offset) for partition, offset in zip(partitions, offsets, strict=True) if offset is not None
        }

    async def get_stats(self) -> StoreStats:
        stats = await server_statistics(self._connections.client)
        if stats.connected:
            stats.details.update(self._active.count())
        return stats

    async def eviction(self) -> Eviction:
        """Whether Redis may drop sessions that live, and how many keys it has dropped. Raises StoreUnavailable."""
        return await eviction(self._connections.client)

    async def ping(self) -> None:
        await self._round_trips.run("PING")

    def session_id_pages(self, size: int = 256) -> AsyncGenerator[list[str]]:
        """The ids of the stored sessions, as `store.redis.scan` finds them."""
        return session_id_pages(self._connections.client, self._keys, size=size)

    async def close(self) -> None:
        await self._active.close()
        await self._round_trips.close()
        for node in self._lock_nodes:
            await node.aclose()
        await self._connections.close()


def _restored(outcome: Any) -> RestoreOutcome:
    match outcome[0]:
        case b"APPLIED":
            return Applied()
        case b"STALE":
            return Stale(int(outcome[1]))
        case b"FENCED":
            return Fenced(int(outcome[1]))
    raise CorruptSession(f"restore answered {outcome!r}")
