"""A holder that is stopped past its lease, as by a suspended machine, and goes on as if nothing had happened."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from ops.local.redis import RedisServer
from schemas.fold import evolve, fact_fields
from schemas.identity import turn_id
from schemas.inbound import Changes
from schemas.replies import SessionUpdated, encode_reply
from schemas.session import SessionData
from store.errors import LockTimeout
from store.locking import LockSettings
from store.protocol import Applied, Fence, SessionStore, Stale
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from tests.processes import REPOSITORY, bare_environment

LEASE_S = 1.5
DEADLINE_S = 30.0
AT = "2026-01-02T03:04:05.678Z"


@dataclass(frozen=True)
class Holder:
    """`tests.contract.lock_holder` as a process."""

    process: Process

    async def says(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), DEADLINE_S)
        assert line, "it ended without a word"
        said: dict[str, Any] = orjson.loads(line)
        return said

    def tell_to_write(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


StartHolder = Callable[[str], Awaitable[Holder]]


@pytest.fixture
async def start_holder(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[StartHolder]:
    """Starts one that holds the lock of `s1` for a `turn` or a `direct` write, and returns once it has it."""
    started: list[Process] = []

    async def start(kind: str) -> Holder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.lock_holder"),
            *(redis_server.url, redis_prefix, "s1", str(LEASE_S), kind),
            stdin=PIPE,
            stdout=PIPE,
            env=bare_environment(),
            cwd=REPOSITORY,
        )
        started.append(process)
        holder = Holder(process)
        assert "holding" in await holder.says()
        return holder

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


NewStore = Callable[[LockSettings], RedisSessionStore]


@pytest.fixture
async def new_store(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[NewStore]:
    async with AsyncExitStack() as stack:

        def make(lock: LockSettings) -> RedisSessionStore:
            connections = connect(RedisSettings(redis_server.url))
            made = RedisSessionStore(connections, ttl_seconds=60, key_prefix=redis_prefix, lock=lock)
            stack.push_async_callback(made.close)
            return made

        yield make


@pytest.fixture
async def store(new_store: NewStore) -> RedisSessionStore:
    """Of the one who comes later. The session is there."""
    made = new_store(LockSettings(lease_seconds=5.0, retry_attempts=4))
    assert await write(made, None, Fence("partition", 1), "nobody") == Applied()
    return made


async def write(store: SessionStore, before: SessionData | None, fence: Fence, by: str) -> object:
    """Writes what follows from `before`, and returns what became of it."""
    inbound_id = f"{by} after {before.version if before else 0}"
    event_id = turn_id("s1", inbound_id)
    fields = fact_fields(event_id, "s1", inbound_id, None, before, 1_000, AT)
    fact = SessionUpdated(**fields, actor="system", changes=Changes(metadata={"by": by}))
    return await store.commit_turn(
        evolve(before, fact),
        expected_version=before.version if before else 0,
        event_id=event_id,
        fence=fence,
        reply=encode_reply(fact),
    )


async def assert_kept_over_a_lease(new_store: NewStore) -> None:
    """It is the pause that ends the lease: as long as the holder runs, it renews it."""
    with pytest.raises(LockTimeout):
        async with new_store(LockSettings(1.2 * LEASE_S, retry_attempts=1)).lock("s1"):
            pytest.fail("the lock was given twice")


@pytest.mark.parametrize("kind", ["turn", "direct"])
async def test_what_a_stopped_holder_writes_after_its_successor_is_refused(
    start_holder: StartHolder, new_store: NewStore, store: RedisSessionStore, kind: str
) -> None:
    """O: its successor is still at work, and notices nothing."""
    holder = await start_holder(kind)
    await assert_kept_over_a_lease(new_store)
    holder.stop()
    holder.tell_to_write()
    async with store.lock("s1") as fence:
        before = await store.get("s1")
        assert await write(store, before, fence, "the second holder") == Applied()
        between = await store.get("s1")
        holder.go_on()
        if kind == "turn":
            assert await holder.says() == {"outcome": "Fenced", "applied": False}
        else:
            assert await holder.says() == {"published": 1}, "what was there before, and nothing of its own"
        ended = await holder.says()
        assert ended["ended"] == "LockLost"
        if kind == "direct":
            assert "under a later lock" in ended["why"], "it was refused, not only late"
        assert await asyncio.wait_for(holder.process.wait(), DEADLINE_S) == 0
        assert await store.get("s1") == between
        assert await write(store, between, fence, "the second holder") == Applied()
        await assert_kept_over_a_lease(new_store)
    after = await store.get("s1")
    assert after is not None
    assert (after.version, after.metadata) == (3, {"by": "the second holder"})
    assert len(await store.events("s1")) == 3


async def test_until_its_successor_has_written_the_version_decides(
    start_holder: StartHolder, store: RedisSessionStore
) -> None:
    """U: the late write is one among others, and who decided from an older state decides anew."""
    holder = await start_holder("turn")
    holder.stop()
    holder.tell_to_write()
    async with store.lock("s1") as fence:
        before = await store.get("s1")
        assert before is not None
        holder.go_on()
        assert await holder.says() == {"outcome": "Applied", "applied": True}
        assert (await holder.says())["ended"] == "LockLost", "it is told all the same"
        assert await write(store, before, fence, "the second holder") == Stale(2)
        between = await store.get("s1")
        assert between == replace(before, seq=2, version=2, metadata={"by": "the first holder"})
        assert await write(store, between, fence, "the second holder") == Applied()
    assert len(await store.events("s1")) == 3
