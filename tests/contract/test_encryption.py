"""Encryption at rest on a real Redis: what can be read there, by whom, and what a wrong key says."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ops.local.redis import RedisServer
from schemas.replies import TurnCompleted, decode_reply
from store.encryption import SessionCipher, new_key
from store.errors import CorruptSession, WrongKey
from store.protocol import SessionStore
from store.redis.connect import RedisSettings
from tests.contract.sealed import Sealed, say

CANARY = "-CANARY-7f3a"
OLD, NEW, OTHER = (new_key() for _ in range(3))
OLD_ID, NEW_ID = (SessionCipher([key]).key_id for key in (OLD, NEW))

READS: dict[str, Callable[[SessionStore], Awaitable[object]]] = {
    "load": lambda store: store.load("s1"),
    "get": lambda store: store.get("s1"),
    "newest_event": lambda store: store.newest_event("s1"),
    "events": lambda store: store.events("s1"),
}
each_read = pytest.mark.parametrize("read", READS.values(), ids=READS)


@pytest.fixture
async def sealed(redis_server: RedisServer, redis_prefix: str) -> AsyncIterator[Sealed]:
    redis = Sealed(RedisSettings(redis_server.url), redis_prefix)
    async with redis.stack:
        yield redis


def decoded(value: bytes) -> bytes:
    """What is under the base64 of a token; nothing where it is none."""
    try:
        return base64.urlsafe_b64decode(value)
    except ValueError:
        return b""


async def marked_values(sealed: Sealed) -> set[bytes]:
    """The keys in which something of a person can be read."""
    canary = CANARY.encode()
    return {
        key
        for key, values in (await sealed.everything()).items()
        if any(canary in value or canary in decoded(value) for value in [key, *values])
    }


async def test_nothing_of_a_person_can_be_read_in_redis(sealed: Sealed) -> None:
    """X"""
    store = sealed.store(NEW)
    for n in range(3):
        await say(store, "s1", f"question {n}", mark=CANARY)
    async with store.lock("s1"):
        await store.save_progress({"support.inbound.v1:3": 7})
        assert len(await sealed.everything()) >= 4, "session, events, fence, progress, lock"
        assert await marked_values(sealed) == set()
    session = await store.get("s1")
    assert session is not None
    assert (session.user_id, session.metadata) == (f"user{CANARY}", {"order": f"number{CANARY}"})
    assert [said(event) for event in await store.events("s1")] == [f"question {n}{CANARY}" for n in range(3)]


async def test_the_same_search_finds_it_where_encryption_is_off(sealed: Sealed) -> None:
    await say(sealed.store(), "s1", "question", mark=CANARY)
    keys = {sealed.session_key("s1").encode(), sealed.events_key("s1").encode()}
    assert await marked_values(sealed) == keys


def said(event: bytes) -> str:
    turn = decode_reply(event)
    assert isinstance(turn, TurnCompleted)
    assert turn.message is not None
    return turn.message.text


async def test_a_value_under_another_session_s_key_is_refused(sealed: Sealed) -> None:
    """X"""
    store, client = sealed.store(NEW), sealed.client()
    for session_id in ("s1", "s2"):
        await say(store, session_id, "question")
    state = await client.hget(sealed.session_key("s2"), "state")
    [event] = await client.lrange(sealed.events_key("s2"), 0, -1)
    await client.hset(sealed.session_key("s1"), "state", state)
    await client.lset(sealed.events_key("s1"), 0, event)
    for read in READS.values():
        with pytest.raises(CorruptSession, match="s1 was changed, or belongs to another session"):
            await read(store)
    assert await store.get("s2") is not None


async def test_the_old_key_still_reads_after_a_new_one_was_put_before_it(sealed: Sealed) -> None:
    await say(sealed.store(OLD), "s1", "first")
    store = sealed.store(NEW, OLD)
    assert (await say(store, "s1", "second")).message_count == 2
    assert [said(event) for event in await store.events("s1")] == ["first", "second"]


async def test_a_session_names_every_key_that_it_needs(sealed: Sealed) -> None:
    """The old key must not be dropped for a state under the new one: older events are still under the old."""
    client = sealed.client()

    async def keys() -> bytes:
        found: bytes = await client.hget(sealed.session_key("s1"), "key")
        return found

    await say(sealed.store(OLD), "s1", "first")
    assert await keys() == OLD_ID.encode()
    for _ in range(2):
        await say(sealed.store(NEW, OLD), "s1", "second")
        assert await keys() == f"{OLD_ID} {NEW_ID}".encode()
    await say(sealed.store(OLD, NEW), "s1", "a worker that was not restarted yet")
    assert await keys() == f"{OLD_ID} {NEW_ID}".encode()
    with pytest.raises(WrongKey):
        await sealed.store(NEW).events("s1")


async def test_after_a_rotation_the_old_key_can_be_dropped(sealed: Sealed) -> None:
    store = sealed.store(OLD)
    before = [await say(store, f"s{n}", "question") for n in range(5)]
    await sealed.rotation(NEW, OLD).run(lambda done, total: None)
    store = sealed.store(NEW)
    assert [await store.get(session.session_id) for session in before] == before
    assert [said(event) for n in range(5) for event in await store.events(f"s{n}")] == ["question"] * 5
    assert (await say(store, "s1", "and on")).message_count == 2


@each_read
async def test_a_retired_key_says_what_to_do(sealed: Sealed, read: Callable[[SessionStore], Awaitable[object]]) -> None:
    await say(sealed.store(OLD), "s1", "question")
    with pytest.raises(WrongKey, match=r"s1 .* a key that is not in SESSION_ENCRYPTION_KEY: add it there"):
        await read(sealed.store(NEW, OTHER))
    await read(sealed.store(NEW, OTHER, OLD))


@each_read
async def test_encryption_that_is_switched_on_refuses_plain_sessions(
    sealed: Sealed, read: Callable[[SessionStore], Awaitable[object]]
) -> None:
    await say(sealed.store(), "s1", "question")
    with pytest.raises(WrongKey, match=r"s1 .* plain text: .* `supportstream keys rotate`"):
        await read(sealed.store(NEW))


@each_read
async def test_encryption_that_is_switched_off_refuses_sealed_sessions(
    sealed: Sealed, read: Callable[[SessionStore], Awaitable[object]]
) -> None:
    await say(sealed.store(NEW), "s1", "question")
    with pytest.raises(WrongKey, match="SESSION_ENCRYPTION_ENABLED"):
        await read(sealed.store())
