"""What only a server can do to us: forget its scripts, forget everything, die, refuse writes, end a lease."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ops.local.redis import RedisServer
from store.errors import CorruptSession, LockLost, StoreReplaced, StoreUnavailable
from store.locking import LockSettings
from store.protocol import Applied, CommitOutcome, Fenced
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from tests.contract.sessions import commit, commit_up_to, session

DEADLINE_S = 10.0
LEASE_S = 0.2


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
async def client(own_server: RedisServer) -> AsyncIterator[Redis]:
    """For what the store doesn't do."""
    client = Redis.from_url(own_server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def store(own_server: RedisServer) -> AsyncIterator[RedisSessionStore]:
    made = RedisSessionStore(
        connect(RedisSettings(own_server.url, socket_timeout=1.0, socket_connect_timeout=1.0)),
        ttl_seconds=60,
        lock=LockSettings(lease_seconds=LEASE_S, retry_attempts=5),
    )
    yield made
    await made.close()


async def test_scripts_that_the_server_forgot_are_loaded_again(store: RedisSessionStore, client: Redis) -> None:
    for seq in (1, 2):
        await client.script_flush()
        assert await commit(store, session(seq=seq)) == Applied()
    await client.script_flush()
    outcomes = await asyncio.gather(*(commit(store, session(f"s{n}")) for n in range(2, 50)))
    assert set(map(type, outcomes)) == {Applied}


async def test_fences_grow_over_a_flush(store: RedisSessionStore, client: Redis) -> None:
    """O: a failover forgets the last token; the next one is larger all the same."""
    before = [await store.next_fence() for _ in range(100)][-1]
    await client.flushall()
    assert await store.next_fence() > before


async def test_fences_grow_while_the_server_s_clock_goes_back(store: RedisSessionStore, client: Redis) -> None:
    """O"""
    ahead = await store.next_fence() + 3_600_000_000
    await client.set("agent:session:fence", ahead)
    assert [await store.next_fence(), await store.next_fence()] == [ahead + 1, ahead + 2]


async def test_a_server_that_dies_is_unavailable_and_works_again_when_it_is_back(
    store: RedisSessionStore, own_server: RedisServer
) -> None:
    await commit(store, session())
    await asyncio.to_thread(own_server.server.kill)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.load("s1")
        with pytest.raises(StoreUnavailable):
            await commit(store, session(seq=2))
        with pytest.raises(StoreUnavailable):
            await store.ping()
    assert not (await store.get_stats()).connected
    await asyncio.to_thread(own_server.start)
    await store.ping()
    assert await store.load("s1") is None
    assert await commit(store, session()) == Applied()


async def test_a_server_that_hangs_is_unavailable_in_bounded_time(
    store: RedisSessionStore, own_server: RedisServer
) -> None:
    """P"""
    await store.ping()
    own_server.server.pause()
    begun = time.monotonic()
    try:
        with pytest.raises(StoreUnavailable):
            await store.load("s1")
    finally:
        own_server.server.resume()
    assert time.monotonic() - begun < DEADLINE_S
    await store.ping()


async def test_who_gives_up_waiting_leaves_no_response_behind_for_others(
    store: RedisSessionStore, own_server: RedisServer
) -> None:
    """X: a turn may be cancelled while its command is on the way."""
    names = [f"s{n}" for n in range(10)]
    for name in names:
        await commit(store, session(name))
    own_server.server.pause()
    first = asyncio.create_task(store.load("s1"))
    others = [asyncio.create_task(store.get(name)) for name in names]
    await asyncio.sleep(0.05)
    first.cancel()
    own_server.server.resume()
    assert await asyncio.gather(*others) == [session(name) for name in names]
    assert [await store.get(name) for name in names] == [session(name) for name in names]


@pytest.mark.parametrize("trouble", ["read-only replica after a failover", "out of memory"])
async def test_a_server_that_takes_no_writes_for_now_is_unavailable(
    store: RedisSessionStore, client: Redis, trouble: str
) -> None:
    """L: a failover or a full server is waited for; it is no reason to make a customer's message a dead letter."""
    await commit(store, session())
    if trouble == "out of memory":
        await client.config_set("maxmemory", "1mb")
    else:
        await client.slaveof("127.0.0.1", 1)
    with pytest.raises(StoreUnavailable):
        await commit(store, session(seq=2))


async def test_a_lease_that_ended_is_told_and_what_its_holder_writes_is_fenced(
    store: RedisSessionStore, client: Redis
) -> None:
    """O: a holder that was paused too long; that its lease ended is played by deleting the lock."""

    async def held_too_long() -> None:
        async with store.lock("s1") as late:
            await client.delete("agent:session:{s1}:lock")
            async with store.lock("s1") as later:
                assert await commit(store, session(), kind="lock", token=later.token) == Applied()
            outcomes.append(await commit(store, session(seq=2), kind="lock", token=late.token))

    outcomes: list[CommitOutcome] = []
    with pytest.raises(LockLost, match="s1"):
        await held_too_long()
    assert isinstance(outcomes[0], Fenced)


async def test_a_lock_is_renewed_while_it_is_held(store: RedisSessionStore, client: Redis) -> None:
    """O, P: a long turn keeps its lock; the lease bounds only what a dead holder holds up."""
    async with store.lock("s1"):
        begun = time.monotonic()
        while time.monotonic() < begun + 3 * LEASE_S:
            assert await client.exists("agent:session:{s1}:lock")
            await asyncio.sleep(LEASE_S / 10)
    assert not await client.exists("agent:session:{s1}:lock")


async def test_a_lock_that_cannot_be_released_ends_by_itself(
    watching: RedisSessionStore, own_server: RedisServer
) -> None:
    async with watching.lock("s1"):
        await asyncio.to_thread(own_server.server.kill)


async def test_a_lock_of_a_server_that_is_away_is_unavailable(
    store: RedisSessionStore, own_server: RedisServer
) -> None:
    await asyncio.to_thread(own_server.server.kill)
    with pytest.raises(StoreUnavailable):
        async with store.lock("s1"):
            pytest.fail("a lock of nothing")


@pytest.mark.parametrize("state", [b"{", b"[]", b'"s1"', b"{}", b'{"session_id": "s1"}', b"\xff", b"null"])
async def test_bytes_that_are_no_session_are_told_from_no_session(
    store: RedisSessionStore, client: Redis, state: bytes
) -> None:
    await commit(store, session())
    await client.hset("agent:session:{s1}", "state", state)
    with pytest.raises(CorruptSession, match="s1"):
        await store.load("s1")


async def test_a_state_under_another_session_s_key_is_refused(store: RedisSessionStore, client: Redis) -> None:
    """X"""
    await commit(store, session("s2"))
    await client.hset("agent:session:{s1}", "state", session("s2").to_json())
    with pytest.raises(CorruptSession, match="another session"):
        await store.load("s1")


async def test_all_keys_of_a_session_share_a_hash_tag_and_expire(store: RedisSessionStore, client: Redis) -> None:
    await commit_up_to(store, 3)
    keys = [key async for key in client.scan_iter("*s1*")]
    assert len(keys) == 2
    assert all(key.startswith(b"agent:session:{s1}") for key in keys)
    assert all([0 < await client.pttl(key) <= 60_000 for key in keys])


async def test_commands_of_many_sessions_share_round_trips(store: RedisSessionStore, client: Redis) -> None:
    """A thousand commits at once need no thousand connections."""
    outcomes = await asyncio.gather(*(commit(store, session(f"s{n}")) for n in range(1_000)))
    assert set(map(type, outcomes)) == {Applied}
    assert int((await client.info("clients"))["connected_clients"]) <= 3


async def test_who_gives_up_waiting_takes_nobody_along(store: RedisSessionStore) -> None:
    """P: a cancelled caller in a group of round trips."""
    commits = [asyncio.ensure_future(commit(store, session(f"s{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    commits[3].cancel()
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert isinstance(outcomes[3], asyncio.CancelledError)
    assert all(outcome == Applied() for n, outcome in enumerate(outcomes) if n != 3)


@pytest.fixture
async def watching(own_server: RedisServer) -> AsyncIterator[RedisSessionStore]:
    """A store as a worker has it."""
    made = RedisSessionStore(connect(RedisSettings(own_server.url, watch_for_loss=True)), ttl_seconds=60)
    await made.accept_server()
    yield made
    await made.close()


async def test_a_flush_is_noticed_before_a_session_counts_as_new_and_before_progress_is_saved(
    watching: RedisSessionStore, client: Redis
) -> None:
    """R: neither the server nor its run id changed."""
    await commit_up_to(watching, 2)
    await watching.save_progress({"t:0": 5})
    assert await watching.load("nobody") is None
    await client.flushall()
    for _ in range(2):
        with pytest.raises(StoreReplaced):
            await watching.load("s1")
        with pytest.raises(StoreReplaced):
            await watching.save_progress({"t:0": 6})
    await watching.accept_server()
    assert await watching.load("s1") is None
    assert await watching.progress(["t:0"]) == {}
    await watching.save_progress({"t:0": 6})


async def test_a_server_that_was_restarted_gets_no_command_before_it_is_accepted(
    watching: RedisSessionStore, own_server: RedisServer, client: Redis
) -> None:
    """R: the run id tells."""
    await commit(watching, session())
    await asyncio.to_thread(own_server.server.kill)
    await asyncio.to_thread(own_server.start)
    for _ in range(2):
        with pytest.raises(StoreReplaced):
            await commit(watching, session("s2"))
    assert await client.dbsize() == 0
    await watching.accept_server()
    assert await commit(watching, session("s2")) == Applied()
