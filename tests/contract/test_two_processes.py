"""Two processes write one session at once, in every way there is: each write is in it once, and in the topic."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import orjson
import pytest

from ops.local.redis import RedisServer
from schemas.fold import evolve
from schemas.replies import ReplyEvent, TurnCompleted, decode_reply
from schemas.session import SessionData
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from tests.processes import REPOSITORY, bare_environment

SESSION = "s1"
OPERATIONS = 60
OWNER_TURNS = 150
"""They wait for no lock, and take less time each."""
DEADLINE_S = 120.0

StartHammer = Callable[[str, str, int], Awaitable[Process]]


@pytest.fixture
async def start_hammer(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[StartHammer]:
    started: list[Process] = []

    async def start(name: str, role: str, turns: int) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contract.hammer", redis_server.url, redis_prefix, SESSION),
            *(name, str(OPERATIONS), str(turns), role),
            stdin=PIPE,
            stdout=PIPE,
            env=bare_environment(),
            cwd=REPOSITORY,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ready(process: Process) -> None:
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"ready\n"


async def hammered(process: Process) -> dict[str, Any]:
    """What it has done, once it has done all."""
    said, _ = await asyncio.wait_for(process.communicate(b"go\n"), DEADLINE_S)
    assert process.returncode == 0
    done: dict[str, Any] = orjson.loads(said)
    return done


async def test_two_processes_lose_none_of_each_others_writes(
    start_hammer: StartHammer, redis_server: RedisServer, redis_prefix: str
) -> None:
    """U, R, D, O"""
    processes = await asyncio.gather(
        start_hammer("ann", "owner", OWNER_TURNS), start_hammer("bob", "visitor", OPERATIONS)
    )
    await asyncio.gather(*map(ready, processes))
    ann, bob = await asyncio.gather(*map(hammered, processes))

    connections = connect(RedisSettings(redis_server.url))
    store = RedisSessionStore(connections, ttl_seconds=600, key_prefix=redis_prefix)
    live = await store.get(SESSION)
    published: list[bytes] = await connections.client.lrange(f"{redis_prefix}log", 0, -1)
    await store.close()
    assert live is not None

    assert_each_write_counted_once(live, ann, bob)
    facts = serial(published)
    assert [fact.version for fact in facts] == list(range(1, live.version + 1))
    assert live.version == 4 * OPERATIONS + OPERATIONS + OWNER_TURNS
    assert folded(published).to_json() == live.to_json()
    assert_they_met(facts, ann, bob)


def assert_each_write_counted_once(live: SessionData, ann: dict[str, Any], bob: dict[str, Any]) -> None:
    """U"""
    added = [done["added"] for done in (ann, bob)]
    assert live.message_count == ann["turns"] + bob["turns"] + sum(each["message_count"] for each in added)
    assert live.metadata == {
        "last-ann": ann["last"],
        "last-bob": bob["last"],
        "own-ann": added[0]["own-ann"],
        "own-bob": added[1]["own-bob"],
        "shared": sum(each["shared"] for each in added),
    }


def serial(published: list[bytes]) -> list[ReplyEvent]:
    """Every event once, in the order of the log.

    D: what was published again has the bytes that it had before, so each seq is there once.
    """
    facts = [decode_reply(value) for value in dict.fromkeys(published)]
    assert [fact.seq for fact in facts] == list(range(1, len(facts) + 1))
    return facts


def folded(published: list[bytes]) -> SessionData:
    """R: from the log alone, repetitions and all. Raises SequenceGap where a seq came too early."""
    session = None
    for value in published:
        session = evolve(session, decode_reply(value))
    assert session is not None
    return session


def assert_they_met(facts: list[ReplyEvent], ann: dict[str, Any], bob: dict[str, Any]) -> None:
    """Two that write one after the other show nothing."""
    speakers = [fact.inbound_id.partition("-")[0] for fact in facts if isinstance(fact, TurnCompleted)]
    assert sum(one != other for one, other in pairwise(speakers)) > OPERATIONS / 4, "they took no turns"
    assert bob["observed"]["lock:foreign_partition"] == OPERATIONS
    for done in (ann, bob):
        assert done["observed"].get("stale"), f"{done['name']} was never overtaken"
