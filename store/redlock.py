"""Redlock: a session lock over N independent Redis nodes, held by whoever has a majority of them.

The algorithm: https://redis.io/docs/latest/develop/use/patterns/distributed-locks/. Each node's part is redis-py's own
lock. The lock keeps others out in the ordinary case only; what makes a holder harmless that was paused past its lease
is the fencing token (decision 2), which the store compares at every write.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

import structlog
from redis.asyncio.lock import Lock
from redis.exceptions import LockError as RedisLockError

from store.errors import LockLost, LocksUnavailable, LockTimeout
from store.locking import LockSettings
from store.protocol import Fence

log = structlog.get_logger(__name__)

CLOCK_DRIFT = 0.01
"""Nodes' clocks run apart by at most this share of a lease."""
_DRIFT_SECONDS = 0.002
"""And what expiry in whole milliseconds adds."""
_RETRY_SECONDS = (0.01, 0.05)
_AT_ONCE = 8
"""Requests to one node under way at once; each has a connection, and hundreds that connect at once are late for it."""


class Redlock:
    """Locks by session. `nodes` are clients of independent servers; a single one works, and is no majority of anything.

    A lock is renewed while it is held, so a long turn keeps it; the lease only bounds what a dead holder holds up.
    """

    def __init__(
        self, nodes: Sequence[Any], *, key_prefix: str, settings: LockSettings, next_fence: Callable[[], Awaitable[int]]
    ) -> None:
        self._nodes = list(nodes)
        self._quorum = len(self._nodes) // 2 + 1
        self._prefix = key_prefix
        self._settings = settings
        self._next_fence = next_fence
        self._held: dict[_Holding, float] = {}
        self._slots = [asyncio.Semaphore(_AT_ONCE) for _ in self._nodes]
        # Weak: a queue lives as long as somebody stands in it.
        self._queues: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def active(self) -> int:
        """How many locks this process holds now."""
        return len(self._held)

    def describe(self) -> dict[str, int | float]:
        """For the health report."""
        now = time.monotonic()
        return {
            "active": len(self._held),
            "oldest_seconds": round(max((now - since for since in self._held.values()), default=0.0), 3),
            "nodes": len(self._nodes),
            "quorum": self._quorum,
        }

    async def self_test(self) -> None:
        """Takes and gives back a lock that nobody else wants.

        Raises:
            LocksUnavailable: fewer nodes answer than the quorum.
        """
        async with self.hold(f"self-test-{uuid4()}"):
            pass

    @asynccontextmanager
    async def hold(self, session_id: str) -> AsyncIterator[Fence]:
        """As `store.protocol.SessionStore.lock`."""
        locks = [self._lock(node, session_id) for node in self._nodes]
        holding = _Holding(locks, self._slots, self._quorum, self._settings)
        await self._acquire(session_id, holding)
        self._held[holding] = time.monotonic()
        renewal = asyncio.create_task(holding.renew_while_held(), name="lock-renewal")
        try:
            # Asked for while the lock is held: whoever gets the lock later has a larger token.
            yield Fence("lock", await self._next_fence())
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])
            del self._held[holding]
            # Asked before it is given back: a node that is slow then takes nothing from what was held.
            lost = holding.lost
            lost |= await holding.release()
        if lost:
            raise LockLost(f"The lease of session {session_id}'s lock ended while it was held.")

    async def _acquire(self, session_id: str, holding: "_Holding") -> None:
        patience = self._settings.patience_seconds
        timed_out = LockTimeout(f"The lock of session {session_id} was not free in {patience:g} s.")
        deadline = time.monotonic() + patience
        # Of all in this process who want it one asks the nodes; the others stand behind, and cost nobody anything.
        queue = self._queues.setdefault(session_id, asyncio.Lock())
        try:
            async with asyncio.timeout(patience):
                await queue.acquire()
        except TimeoutError as error:
            raise timed_out from error
        try:
            while not await holding.acquire():
                if holding.answering < self._quorum:
                    raise LocksUnavailable(
                        f"{holding.answering} of {len(self._nodes)} lock nodes answer; {self._quorum} are needed."
                    )
                if time.monotonic() > deadline:
                    raise timed_out
                # Two who took half of the nodes each must not meet again.
                await asyncio.sleep(random.uniform(*_RETRY_SECONDS))  # noqa: S311  # no secret
        finally:
            queue.release()

    def _lock(self, node: Any, session_id: str) -> Lock:
        return Lock(node, f"{self._prefix}{{{session_id}}}:lock", self._settings.lease_seconds, thread_local=False)


class _Holding:
    """One holder's locks on all nodes."""

    def __init__(self, locks: list[Lock], slots: list[asyncio.Semaphore], quorum: int, settings: LockSettings) -> None:
        self._locks = locks
        self._slots = slots
        self._quorum = quorum
        self._settings = settings
        self._valid_until = 0.0
        self.answering = 0
        self._lost = False

    @property
    def lost(self) -> bool:
        return self._lost or time.monotonic() > self._valid_until

    async def acquire(self) -> bool:
        """Tries once on all nodes; gives all back unless a majority is ours for long enough to be of use."""
        token = uuid4().hex
        begun = time.monotonic()
        outcomes = await self._on_all(lambda lock: lock.acquire(blocking=False, token=token))
        self.answering = sum(outcome is not None for outcome in outcomes)
        self._lost = False
        self._valid_until = self._lease_from(begun)
        if sum(outcome is True for outcome in outcomes) >= self._quorum and not self.lost:
            return True
        await self.release()
        return False

    async def renew_while_held(self) -> None:
        """Extends the leases in time, until cancelled or a majority is no longer ours."""
        while not self._lost:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            begun = time.monotonic()
            outcomes = await self._on_all(lambda lock: lock.extend(self._settings.lease_seconds, replace_ttl=True))
            if sum(outcome is True for outcome in outcomes) >= self._quorum:
                self._valid_until = self._lease_from(begun)
            elif sum(outcome is None for outcome in outcomes) < self._quorum:
                # Not merely unreachable for a moment: a majority says that it is not ours.
                self._lost = True

    async def release(self) -> bool:
        """Gives all back, and returns whether a majority says that it was not ours. A node that doesn't answer forgets
        the lock by itself, at the end of its lease."""
        outcomes = await self._on_all(lambda lock: lock.release())
        return sum(outcome is False for outcome in outcomes) >= self._quorum

    async def _on_all(self, act: Callable[[Lock], Awaitable[object]]) -> list[object]:
        """Per node what came out; False where the node says no, None where it doesn't answer."""
        nodes = zip(self._locks, self._slots, strict=True)
        return list(await asyncio.gather(*(self._on_one(act, lock, slots) for lock, slots in nodes)))

    async def _on_one(self, act: Callable[[Lock], Awaitable[object]], lock: Lock, slots: asyncio.Semaphore) -> object:
        try:
            # Who stands in line for a node that hangs gives up with it, and is in nobody's way at the others.
            async with asyncio.timeout(self._settings.node_timeout_seconds), slots:
                return await act(lock)
        except RedisLockError:
            return False
        except Exception as error:
            log.warning("lock_node_silent", error=str(error) or type(error).__name__)
            return None

    def _lease_from(self, begun: float) -> float:
        return begun + self._settings.lease_seconds * (1 - CLOCK_DRIFT) - _DRIFT_SECONDS
