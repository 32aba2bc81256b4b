"""The session store of one process: for development and tests. Everything is gone when the process ends."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from schemas.session import EARLIER_IDS_MS, RECENT_EVENTS, SessionData
from store.errors import LockTimeout
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


@dataclass(slots=True)
class _Entry:
    session: SessionData
    event_id: str
    writer: FenceKind
    expires_at: float
    fences: dict[FenceKind, int] = field(default_factory=dict)
    events: deque[bytes] = field(default_factory=lambda: deque(maxlen=RECENT_EVENTS))
    earlier_ids: dict[str, int] = field(default_factory=dict)
    """Inbound ids that left the session's recent ones, oldest first, each with when (in ms since 1970)."""


class MemorySessionStore:
    """Bounded: beyond `max_sessions` the session that was idle longest is forgotten."""

    def __init__(
        self,
        *,
        ttl_seconds: float,
        max_sessions: int = 100_000,
        lock: LockSettings | None = DEFAULT_LOCK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = ttl_seconds
        self._max_sessions = max_sessions
        self._lock_settings = lock
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        # Weak: a lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._progress: dict[str, int] = {}
        self._last_fence = 0

    async def load(self, session_id: str) -> Stored | None:
        entry = self._live(session_id)
        return Stored(entry.session, entry.writer) if entry else None

    async def get(self, session_id: str) -> SessionData | None:
        entry = self._live(session_id)
        return entry.session if entry and not entry.session.deleted else None

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
        entry = self._live(session.session_id)
        if entry is not None and entry.fences.get(fence.kind, 0) > fence.token:
            return Fenced(entry.fences[fence.kind])
        current = entry.session.version if entry else 0
        other_life = entry is not None and session.seq > 1 and entry.session.epoch != session.epoch
        if current != expected_version or other_life:
            if entry is not None and entry.event_id == event_id:
                return Already(entry.events[-1])
            return Stale(current)
        if entry is not None and session.seq > 1 and not session.deleted and answers in entry.earlier_ids:
            return Answered()
        if entry is None:
            entry = _Entry(session, event_id, fence.kind, 0.0)
            self._entries[session.session_id] = entry
        entry.session, entry.event_id, entry.writer = session, event_id, fence.kind
        entry.fences[fence.kind] = fence.token
        entry.expires_at = self._clock() + self.ttl_of(session)
        if session.deleted or session.seq == 1:
            entry.events.clear()
            entry.earlier_ids.clear()
        entry.events.append(reply)
        _remember(entry, pushed_out)
        self._entries.move_to_end(session.session_id)
        while len(self._entries) > self._max_sessions:
            self._entries.popitem(last=False)
        return Applied()

    async def newest_event(self, session_id: str) -> bytes | None:
        entry = self._live(session_id)
        return entry.events[-1] if entry else None

    async def events(self, session_id: str, after_seq: int = 0) -> Sequence[bytes]:
        entry = self._live(session_id)
        if entry is None:
            return []
        missing = max(0, entry.session.seq - after_seq)
        return list(entry.events)[-missing:] if missing else []

    async def load_whole(self, session_ids: Sequence[str]) -> list[tuple[SessionData | None, Sequence[bytes]]]:
        entries = [self._live(session_id) for session_id in session_ids]
        return [(entry.session, list(entry.events)) if entry else (None, ()) for entry in entries]

    async def restore(self, lost: Sequence[Restorable], fence: Fence) -> list[RestoreOutcome]:
        return [self._restore(each, fence) for each in lost]

    def _restore(self, lost: Restorable, fence: Fence) -> RestoreOutcome:
        session = lost.session
        entry = self._live(session.session_id)
        if entry is not None:
            if entry.fences.get(fence.kind, 0) > fence.token:
                return Fenced(entry.fences[fence.kind])
            if entry.session.version >= session.version:
                return Stale(entry.session.version)
            if entry.session.epoch != session.epoch:
                entry.earlier_ids.clear()
        else:
            entry = self._entries[session.session_id] = _Entry(session, lost.event_id, fence.kind, 0.0)
        entry.session, entry.event_id, entry.writer = session, lost.event_id, fence.kind
        entry.fences[fence.kind] = fence.token
        entry.expires_at = self._clock() + lost.ttl_seconds
        entry.events = deque(lost.events, maxlen=RECENT_EVENTS)
        _remember(entry, lost.pushed_out)
        return Applied()

    def ttl_of(self, session: SessionData) -> float:
        return session.ttl_seconds or self._ttl

    async def accept_server(self) -> str:
        """There is no other server than this process."""
        return ""

    async def next_fence(self) -> int:
        self._last_fence += 1
        return self._last_fence

    def lock(self, session_id: str) -> AbstractAsyncContextManager[Fence]:
        return self._hold(session_id, self._lock_settings) if self._lock_settings is not None else no_locks()

    def describe_locks(self) -> dict[str, int | float | bool]:
        active = sum(lock.locked() for lock in self._locks.values())
        return {"enabled": self._lock_settings is not None, "active": active}

    async def test_locks(self) -> None:
        """No-op: the in-memory store has no remote lock nodes."""

    @asynccontextmanager
    async def _hold(self, session_id: str, settings: LockSettings) -> AsyncIterator[Fence]:
        lock = self._locks.setdefault(session_id, asyncio.Lock())
        try:
            async with asyncio.timeout(settings.patience_seconds):
                await lock.acquire()
        except TimeoutError as error:
            waited = f"{settings.patience_seconds:g} s"
            raise LockTimeout(f"The lock of session {session_id} was not free in {waited}.") from error
        try:
            yield Fence("lock", await self.next_fence())
        finally:
            lock.release()

    async def save_progress(self, offsets: Mapping[str, int]) -> None:
        for partition, offset in offsets.items():
            self._progress[partition] = max(offset, self._progress.get(partition, 0))

    async def progress(self, partitions: Sequence[str]) -> dict[str, int]:
        return {partition: self._progress[partition] for partition in partitions if partition in self._progress}

    async def get_stats(self) -> StoreStats:
        now = self._clock()
        active = sum(not entry.session.deleted and entry.expires_at > now for entry in self._entries.values())
        return StoreStats("in_memory", True, {"active_sessions": active})

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._entries.clear()

    def _live(self, session_id: str) -> _Entry | None:
        entry = self._entries.get(session_id)
        if entry is not None and entry.expires_at <= self._clock():
            del self._entries[session_id]
            return None
        return entry


def _remember(entry: _Entry, pushed_out: PushedOut) -> None:
    entry.earlier_ids.update(pushed_out)
    if pushed_out:
        forgotten_before = pushed_out[-1][1] - EARLIER_IDS_MS
        for inbound_id, pushed_at in list(entry.earlier_ids.items()):
            if pushed_at >= forgotten_before:
                break
            del entry.earlier_ids[inbound_id]
