"""Rotation of the encryption key under load, in each form of Redis: every session ends under the new key, as it was."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from schemas.session import RECENT_EVENTS
from store.encryption import SessionCipher, new_key
from store.errors import WrongKey
from store.protocol import Stored
from store.redis import RedisSessionStore
from store.redis.connect import RedisConnections, RedisSettings, connect
from store.redis.rotation import PLAIN, RotationReport
from store.redis.round_trips import Command, Link
from store.redis.scripts import RESEAL
from tests.contract.conftest import tls_settings
from tests.contract.sealed import Sealed, say

OLD, NEW, LOST = (new_key() for _ in range(3))
OLD_ID, NEW_ID, LOST_ID = (SessionCipher([key]).key_id for key in (OLD, NEW, LOST))
IDLE, BUSY = 60, 20


@pytest.fixture(params=["redis", "cluster", "tls"])
async def sealed(request: pytest.FixtureRequest, redis_prefix: str) -> AsyncIterator[Sealed]:
    match request.param:
        case "redis":
            settings = RedisSettings(request.getfixturevalue("redis_server").url)
        case "cluster":
            address = request.getfixturevalue("redis_cluster").url.removeprefix("redis://")
            settings = RedisSettings(f"redis+cluster://{address}")
        case _:
            settings = tls_settings(request.getfixturevalue("redis_tls"))
    redis = Sealed(settings, redis_prefix)
    async with redis.stack:
        yield redis


def quietly(done: int, total: int | None) -> None:
    """Nobody looks at the progress."""


async def contents(store: RedisSessionStore, session_id: str) -> tuple[Stored | None, list[bytes]]:
    """All that the store has of a session, opened."""
    return await store.load(session_id), list(await store.events(session_id))


async def rotated(sealed: Sealed, *keys: str) -> RotationReport:
    return await sealed.rotation(*keys).run(quietly)


async def test_a_rotation_under_load_loses_nothing_and_prolongs_nothing(sealed: Sealed) -> None:
    """U: turns go on meanwhile, and each session is readable with the new key alone afterwards."""
    before, workers, client = sealed.store(OLD), sealed.store(NEW, OLD), sealed.client()
    idle = [f"idle-{n}" for n in range(IDLE)]
    busy = [f"busy-{n}" for n in range(BUSY)]
    for session_id in [*idle, *busy]:
        for turn in range(3):
            await say(before, session_id, f"turn {turn}")
    as_it_was = {session_id: await contents(before, session_id) for session_id in idle}
    for session_id in idle:
        for key in (sealed.session_key(session_id), sealed.events_key(session_id)):
            await client.pexpire(key, 40_000)

    turns = dict.fromkeys(busy, 3)
    stopped = False

    async def work(session_id: str) -> None:
        while not stopped:
            turns[session_id] += 1
            await say(workers, session_id, f"turn {turns[session_id]}")

    async with asyncio.TaskGroup() as tasks:
        for session_id in busy:
            tasks.create_task(work(session_id))
        began = sum(turns.values())
        report = await rotated(sealed, NEW, OLD)
        meanwhile = sum(turns.values()) - began
        stopped = True

    assert meanwhile > BUSY, "the load was there"
    assert (report.rotated, report.unreadable, report.expired) == (IDLE + BUSY, 0, 0)
    after = sealed.store(NEW)
    assert {session_id: await contents(after, session_id) for session_id in idle} == as_it_was
    for session_id in idle:
        for key in (sealed.session_key(session_id), sealed.events_key(session_id)):
            assert 0 < await client.pttl(key) <= 40_000
    for session_id in busy:
        stored, events = await contents(after, session_id)
        assert stored is not None
        assert (stored.session.version, stored.session.message_count) == (turns[session_id], turns[session_id])
        assert len(events) == min(turns[session_id], RECENT_EVENTS)
    survey = await sealed.rotation(NEW).survey(quietly)
    assert (survey.sessions, survey.by_key, survey.outdated) == (IDLE + BUSY, {NEW_ID: IDLE + BUSY}, 0)


class Interposed:
    """A link on which something happens right before a session is written that was sealed anew."""

    def __init__(self, link: Link, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._link = link
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    async def exchange(self, commands: list[Command]) -> list[Any]:
        if self._meanwhile and any(command[:2] == ("EVALSHA", RESEAL.sha) for command in commands):
            happen, self._meanwhile = self._meanwhile, None
            await happen()
        return await self._link.exchange(commands)

    @property
    def happened(self) -> bool:
        return self._meanwhile is None

    async def load_scripts(self, texts: list[str]) -> None:
        await self._link.load_scripts(texts)

    def accept_server(self) -> None:
        self._link.accept_server()

    @property
    def server(self) -> str:
        return self._link.server

    async def close(self) -> None:
        await self._link.close()


async def rotated_while(sealed: Sealed, meanwhile: Callable[[], Awaitable[object]]) -> RotationReport:
    connections = connect(sealed.settings)
    link = Interposed(connections.links[0], meanwhile)
    rotation = sealed.rotation(NEW, OLD, connections=RedisConnections(connections.client, [link], connections.close))
    report = await rotation.run(quietly)
    assert link.happened
    return report


@pytest.mark.parametrize("turns", [1, 3, RECENT_EVENTS + 2])
@pytest.mark.parametrize("worker", [(NEW, OLD), (OLD,)], ids=["new key", "old key"])
async def test_a_turn_that_comes_in_between_wins(sealed: Sealed, turns: int, worker: tuple[str, ...]) -> None:
    """U: also where the list of events is full and only moves on."""
    before, store = sealed.store(OLD), sealed.store(*worker)
    for turn in range(turns):
        await say(before, "s1", f"turn {turn}")
    report = await rotated_while(sealed, lambda: say(store, "s1", "in between"))
    assert report == RotationReport(1, 0, 0, 0, ())
    stored, events = await contents(sealed.store(NEW), "s1")
    assert stored is not None
    assert stored.session.message_count == turns + 1
    assert len(events) == min(turns + 1, RECENT_EVENTS)
    assert b"in between" in events[-1]


async def test_a_session_that_expires_in_between_is_not_made_again(sealed: Sealed) -> None:
    await say(sealed.store(OLD), "s1", "question")
    keys = [sealed.session_key("s1"), sealed.events_key("s1")]
    report = await rotated_while(sealed, lambda: sealed.client().delete(*keys))
    assert report == RotationReport(0, 0, 0, 1, ())
    assert await sealed.everything() == {}


async def test_a_session_that_begins_anew_in_between_is_kept(sealed: Sealed) -> None:
    """U: it may have the same version, and as many events."""
    worker = sealed.store(OLD)
    await say(worker, "s1", "old life")

    async def begin_anew() -> None:
        await sealed.client().delete(sealed.session_key("s1"), sealed.events_key("s1"))
        await say(worker, "s1", "new life")

    assert (await rotated_while(sealed, begin_anew)).rotated == 1
    [event] = await sealed.store(NEW).events("s1")
    assert b"new life" in event


class Stopped(Exception):
    """The rotation ended in the middle."""


async def test_a_rotation_that_was_stopped_goes_on_where_it_was(sealed: Sealed) -> None:
    store = sealed.store(OLD)
    for n in range(100):
        await say(store, f"s{n}", "question")
    as_it_was = {f"s{n}": await contents(store, f"s{n}") for n in range(100)}

    def stop(done: int, total: int | None) -> None:
        assert total == 100
        if done >= 30:
            raise Stopped

    with pytest.raises(Stopped):
        await sealed.rotation(NEW, OLD).run(stop, 100)
    done = (await sealed.rotation(NEW, OLD).survey(quietly)).by_key[NEW_ID]
    assert 30 <= done < 100
    report = await rotated(sealed, NEW, OLD)
    assert (report.rotated, report.already, report.unreadable) == (100 - done, done, 0)
    after = sealed.store(NEW)
    assert {session_id: await contents(after, session_id) for session_id in as_it_was} == as_it_was


async def test_a_session_that_needs_no_other_key_is_not_written_again(sealed: Sealed) -> None:
    await say(sealed.store(NEW, OLD), "s1", "question")
    before = await sealed.everything()
    assert await rotated(sealed, NEW, OLD) == RotationReport(0, 1, 0, 0, ())
    assert await sealed.everything() == before


async def test_events_under_the_old_key_are_found_behind_a_state_under_the_new(sealed: Sealed) -> None:
    """Workers had the new key before the rotation, and some not yet: every event is what must open afterwards."""
    for keys in [(NEW, OLD), (OLD, NEW), (NEW, OLD)]:
        await say(sealed.store(*keys), "s1", "question")
    assert (await rotated(sealed, NEW, OLD)).rotated == 1
    _, events = await contents(sealed.store(NEW), "s1")
    assert len(events) == 3


async def test_plain_sessions_are_sealed(sealed: Sealed) -> None:
    """Also those from before there was encryption, which name no key."""
    store, client = sealed.store(), sealed.client()
    for session_id in ("s1", "s2"):
        for turn in range(3):
            await say(store, session_id, f"turn {turn}")
    await client.hdel(sealed.session_key("s2"), "key")
    as_it_was = {session_id: await contents(store, session_id) for session_id in ("s1", "s2")}
    survey = await sealed.rotation(NEW).survey(quietly)
    assert (survey.by_key, survey.outdated) == ({PLAIN: 2}, 2)
    assert (await rotated(sealed, NEW)).rotated == 2
    after = sealed.store(NEW)
    assert {session_id: await contents(after, session_id) for session_id in as_it_was} == as_it_was
    with pytest.raises(WrongKey):
        await store.load("s1")


async def test_a_turn_in_plain_text_over_a_sealed_session_is_sealed_by_the_next_rotation(sealed: Sealed) -> None:
    """A worker that still has encryption off goes on with what it has cached."""
    plain, store = sealed.store(), sealed.store(NEW)
    await say(plain, "s1", "first")
    stored = await plain.load("s1")
    await rotated(sealed, NEW)
    cached = Cached(plain, stored)
    await say(cached, "s1", "second")
    survey = await sealed.rotation(NEW).survey(quietly)
    assert (survey.by_key, survey.outdated) == ({PLAIN: 1, NEW_ID: 1}, 1)
    assert (await rotated(sealed, NEW)).rotated == 1
    _, events = await contents(store, "s1")
    assert len(events) == 2


class Cached(RedisSessionStore):
    """A store whose reader has the session already."""

    def __init__(self, store: RedisSessionStore, stored: Stored | None) -> None:
        self.__dict__ = store.__dict__
        self._stored = stored

    async def load(self, session_id: str) -> Stored | None:
        return self._stored


async def test_what_no_key_opens_is_told_and_left_and_holds_nothing_up(sealed: Sealed) -> None:
    """X: sealing a value that belongs to another session would vouch for it."""
    old, client = sealed.store(OLD), sealed.client()
    good = [f"good-{n}" for n in range(20)]
    bad = ["lost", "half-lost", "moved", "moved-plain", "broken", "no-state"]
    for session_id in [*good, *bad[1:]]:
        await say(old, session_id, "question")
    await say(sealed.store(LOST), "lost", "question")
    await say(sealed.store(LOST, OLD), "half-lost", "question")
    [event] = await client.lrange(sealed.events_key("good-1"), 0, -1)
    await client.lset(sealed.events_key("moved"), 0, event)
    await client.hset(sealed.session_key("moved-plain"), "state", b'{"session_id":"good-1"}')
    await client.hset(sealed.session_key("broken"), "state", b'{"session_id":')
    await client.hdel(sealed.session_key("no-state"), "state")
    before = await sealed.everything()

    report = await rotated(sealed, NEW, OLD)
    assert (report.rotated, report.unreadable, sorted(report.unreadable_ids)) == (20, 6, sorted(bad))
    after = await sealed.everything()
    for session_id in bad:
        for key in (sealed.session_key(session_id).encode(), sealed.events_key(session_id).encode()):
            assert after[key] == before[key]
    for session_id in good:
        assert await sealed.store(NEW).get(session_id)
    survey = await sealed.rotation(NEW, OLD).survey(quietly)
    assert (survey.sessions, survey.locked, survey.outdated, survey.by_key[LOST_ID]) == (26, 2, 4, 2)


async def test_only_ten_of_many_unreadable_sessions_are_named(sealed: Sealed) -> None:
    lost = sealed.store(LOST)
    for n in range(40):
        await say(lost, f"s{n}", "question")
    report = await rotated(sealed, NEW, OLD)
    assert (report.unreadable, len(set(report.unreadable_ids))) == (40, 10)


async def test_keys_that_are_no_sessions_are_left_alone(sealed: Sealed) -> None:
    client = sealed.client()
    await say(sealed.store(OLD), "s1", "question")
    foreign = {sealed.session_key("text").encode(): [b"{}"], f"{sealed.prefix}".encode() + b"{\xff}": [b"{}"]}
    for key, [value] in foreign.items():
        await client.set(key, value)
    await client.hset(f"{sealed.prefix}progress", "support.inbound.v1:3", 7)
    assert await rotated(sealed, NEW, OLD) == RotationReport(1, 0, 0, 0, ())
    after = await sealed.everything()
    assert {key: after[key] for key in foreign} == foreign
