"""What every session store promises, on every backend (`store.protocol`)."""

import asyncio
from dataclasses import replace

import pytest

from schemas.session import RECENT_EVENTS
from store.errors import LockTimeout
from store.protocol import Already, Applied, Fence, Fenced, Restorable, RestoreOutcome, SessionStore, Stale, Stored
from tests.contract.backends import Backend
from tests.contract.sessions import commit, commit_up_to, increment, reply_of, session, tombstone


async def test_a_session_that_never_was_is_nowhere(store: SessionStore) -> None:
    assert await store.load("s1") is None
    assert await store.get("s1") is None
    assert not await store.exists("s1")
    assert await store.newest_event("s1") is None
    assert await store.events("s1") == []


async def test_what_is_committed_is_read_back_exactly(store: SessionStore) -> None:
    after = session()
    assert await commit(store, after) == Applied()
    assert await store.load("s1") == Stored(after, "partition")
    assert await store.get("s1") == after
    assert await store.exists("s1")
    assert await store.newest_event("s1") == reply_of(after)
    assert await store.events("s1") == [reply_of(after)]


async def test_a_write_over_another_version_is_stale_and_changes_nothing(store: SessionStore) -> None:
    """U"""
    await commit_up_to(store, 2)
    for expected in (0, 1, 3, 99):
        assert await commit(store, session(seq=3), expected=expected, event_id="late") == Stale(2)
    assert await store.get("s1") == session(seq=2)
    assert len(await store.events("s1")) == 2


async def test_a_write_over_a_version_when_nothing_is_stored_is_stale(store: SessionStore) -> None:
    """The store forgot: what was made from an older state is not written as if nothing had happened."""
    assert await commit(store, session(seq=5)) == Stale(0)
    assert await store.load("s1") is None


async def test_a_turn_of_an_earlier_life_is_not_written_into_a_later_one_of_the_same_version(
    store: SessionStore,
) -> None:
    """U: the session expired and began anew while its worker had the earlier life in its cache."""
    reborn = session(epoch=2_000)
    await commit(store, reborn)
    assert await commit(store, session(seq=2, epoch=1_000)) == Stale(1)
    assert await store.get("s1") == reborn
    assert await store.events("s1") == [reply_of(reborn)]
    assert await commit(store, session(seq=2, epoch=2_000)) == Applied()


async def test_a_commit_whose_response_was_lost_finds_itself_done(store: SessionStore) -> None:
    """D: with the bytes that were stored first, whatever the second attempt brings."""
    await commit_up_to(store, 1)
    assert await commit(store, session(seq=2), mark="first") == Applied()
    assert await commit(store, session(seq=2), mark="second") == Already(reply_of(session(seq=2), "first"))
    assert len(await store.events("s1")) == 2


async def test_a_first_commit_whose_response_was_lost_finds_itself_done(store: SessionStore) -> None:
    assert await commit(store, session(), mark="first") == Applied()
    assert await commit(store, session(), mark="second") == Already(reply_of(session(), "first"))


async def test_only_the_newest_event_is_found_done(store: SessionStore) -> None:
    await commit_up_to(store, 3)
    assert await commit(store, session(seq=2)) == Stale(3)


async def test_an_earlier_owner_is_fenced_even_when_it_is_behind_as_well(store: SessionStore) -> None:
    """O"""
    await commit(store, session(), token=7)
    assert await commit(store, session(seq=2), token=6) == Fenced(7)
    assert await commit(store, session(seq=2), token=6, expected=0) == Fenced(7)
    assert await commit(store, session(seq=2), token=7) == Applied()
    assert await commit(store, session(seq=3), token=8) == Applied()
    assert await commit(store, session(seq=4), token=7) == Fenced(8)


async def test_partition_and_lock_are_fenced_apart(store: SessionStore) -> None:
    """Between the two kinds the version decides; a large token of one says nothing about the other."""
    assert await commit(store, session(), token=100, kind="partition") == Applied()
    assert await commit(store, session(seq=2), token=5, kind="lock") == Applied()
    assert await commit(store, session(seq=3), token=100, kind="partition") == Applied()
    assert await commit(store, session(seq=4), token=4, kind="lock") == Fenced(5)
    assert await commit(store, session(seq=4), token=99, kind="partition") == Fenced(100)


async def test_the_writer_s_kind_is_kept_with_the_session(store: SessionStore) -> None:
    await commit(store, session(), kind="lock")
    assert (await store.load("s1")) == Stored(session(), "lock")
    await commit(store, session(seq=2), kind="partition")
    assert (await store.load("s1")) == Stored(session(seq=2), "partition")


async def test_fences_outlive_a_deletion(store: SessionStore) -> None:
    """O"""
    await commit(store, session(), token=7)
    await commit(store, tombstone(session()), token=8)
    assert await commit(store, session(epoch=2_000, version=3), token=7) == Fenced(8)


async def test_sessions_do_not_mix(store: SessionStore) -> None:
    """X"""
    names = ["s1", "s10", "s1:events", "{s1}", "s1}"]
    for name in names[:3]:
        await commit(store, session(name), mark=f"CANARY-{name}.")
    for name in names[:3]:
        found = await store.get(name)
        assert found is not None
        assert found.session_id == name
        assert await store.events(name) == [reply_of(session(name), f"CANARY-{name}.")]
    for name in names[3:]:
        assert await store.load(name) is None


async def test_only_the_newest_events_are_kept(store: SessionStore) -> None:
    await commit_up_to(store, RECENT_EVENTS + 10)
    expected = [reply_of(session(seq=seq)) for seq in range(11, RECENT_EVENTS + 11)]
    assert await store.events("s1") == expected
    assert await store.events("s1", 5) == expected


@pytest.mark.parametrize(("after", "expected"), [(0, [1, 2, 3]), (1, [2, 3]), (2, [3]), (3, []), (9, [])])
async def test_events_are_those_that_follow(store: SessionStore, after: int, expected: list[int]) -> None:
    await commit_up_to(store, 3)
    assert await store.events("s1", after) == [reply_of(session(seq=seq)) for seq in expected]


async def test_a_deleted_session_is_a_tombstone_with_one_event(store: SessionStore) -> None:
    last = await commit_up_to(store, 3)
    gone = tombstone(last)
    assert await commit(store, gone) == Applied()
    assert await store.get("s1") is None
    assert not await store.exists("s1")
    assert await store.load("s1") == Stored(gone, "partition")
    assert await store.events("s1") == [reply_of(gone)]
    assert await store.newest_event("s1") == reply_of(gone)


async def test_a_new_epoch_begins_without_the_events_of_the_old_one(store: SessionStore) -> None:
    """X: what was deleted is not shown to whoever comes later."""
    last = await commit_up_to(store, 3)
    await commit(store, tombstone(last))
    reborn = session(epoch=2_000, version=5)
    assert await commit(store, reborn) == Applied()
    assert await store.events("s1") == [reply_of(reborn)]
    assert await store.get("s1") == reborn


async def test_the_time_to_live_starts_anew_with_every_turn(backend: Backend) -> None:
    store = backend.store(ttl_seconds=1.0)
    seq = 1
    await commit(store, session())

    async def older_than_one_life() -> bool:
        nonlocal seq
        seq += 1
        assert await commit(store, session(seq=seq)) == Applied()
        return backend.age > 1.3

    await backend.until(older_than_one_life)
    assert await store.get("s1") == session(seq=seq)
    # The events live as long as the session that they belong to.
    kept = range(max(1, seq - RECENT_EVENTS + 1), seq + 1)
    assert await store.events("s1") == [reply_of(session(seq=each)) for each in kept]


async def test_an_idle_session_expires_with_its_events(backend: Backend) -> None:
    store = backend.store(ttl_seconds=0.1)
    await commit(store, session(), token=9)

    async def gone() -> bool:
        return await store.load("s1") is None

    await backend.until(gone)
    assert await store.newest_event("s1") is None
    assert await store.events("s1") == []
    assert await commit(store, session(epoch=2_000)) == Applied()


async def test_concurrent_writers_lose_no_update(store: SessionStore) -> None:
    """U: each of hundreds of compare-and-set loops is in the sum once."""
    writers = 200
    fence = Fence("lock", await store.next_fence())
    tries = await asyncio.gather(*(increment(store, "s1", f"w{n}", fence) for n in range(writers)))
    final = await store.get("s1")
    assert final is not None
    assert (final.message_count, final.version) == (writers, writers)
    assert len(await store.events("s1")) == RECENT_EVENTS
    assert min(tries) == 1


async def test_of_many_writers_over_one_version_exactly_one_wins(store: SessionStore) -> None:
    """U"""
    await commit_up_to(store, 1)
    attempts = [commit(store, session(seq=2), event_id=f"w{n}", mark=str(n)) for n in range(100)]
    outcomes = await asyncio.gather(*attempts)
    assert outcomes.count(Applied()) == 1
    assert outcomes.count(Stale(2)) == 99
    assert await store.newest_event("s1") == reply_of(session(seq=2), str(outcomes.index(Applied())))


async def test_fences_grow(store: SessionStore) -> None:
    """O"""
    one_by_one = [await store.next_fence() for _ in range(50)]
    assert one_by_one == sorted(set(one_by_one))
    together = await asyncio.gather(*(store.next_fence() for _ in range(100)))
    assert len(set(together)) == 100
    assert min(together) > one_by_one[-1]


async def test_progress_never_goes_back(store: SessionStore) -> None:
    """C"""
    await store.save_progress({"t:0": 5, "t:1": 7})
    await store.save_progress({"t:0": 3, "t:1": 8})
    await store.save_progress({})
    assert await store.progress(["t:0", "t:1", "t:2"]) == {"t:0": 5, "t:1": 8}
    assert await store.progress([]) == {}


async def test_progress_is_exact_beyond_what_a_float_holds(store: SessionStore) -> None:
    """C: offsets are 64-bit numbers; Lua's are doubles."""
    await store.save_progress({"t:0": 2**53 + 1})
    assert await store.progress(["t:0"]) == {"t:0": 2**53 + 1}


async def test_what_was_lost_is_put_back_once_and_never_over_something_newer(store: SessionStore) -> None:
    """R"""
    lost = session(seq=3)
    events = [reply_of(session(seq=seq)) for seq in (1, 2, 3)]
    await commit_up_to(store, 1)

    async def restore(token: int = 5) -> RestoreOutcome:
        [outcome] = await store.restore([Restorable(lost, "event-s1-3", events, 30.0)], Fence("partition", token))
        return outcome

    assert await restore() == Applied()
    assert await store.load("s1") == Stored(lost, "partition")
    assert await store.events("s1") == events
    assert await restore() == Stale(3)
    assert await commit(store, session(seq=4), token=4) == Fenced(5)
    assert await commit(store, lost, token=5) == Already(events[-1])
    assert await commit(store, session(seq=4), token=5) == Applied()
    assert await restore(6) == Stale(4)
    assert await store.get("s1") == session(seq=4)


async def test_a_restored_session_is_not_written_over_a_later_owner(store: SessionStore) -> None:
    """O: and who restores is told so, for it must not go on as if the session were there."""
    await commit(store, session(), token=9)
    late = session(seq=2)
    fence = Fence("partition", 8)
    assert await store.restore([Restorable(late, "e", [reply_of(late)], 30.0)], fence) == [Fenced(9)]
    assert await store.get("s1") == session()


async def test_a_session_may_have_a_time_to_live_of_its_own(backend: Backend) -> None:
    store = backend.store(ttl_seconds=60.0)
    brief = replace(session(), ttl_seconds=1)
    assert store.ttl_of(brief) == 1
    await commit(store, brief)
    await commit(store, session("s2"))

    async def gone() -> bool:
        return not await store.exists("s1")

    await backend.until(gone)
    assert await store.exists("s2")


async def test_a_lock_excludes_others_of_its_session_only(backend: Backend) -> None:
    """O, P"""
    store = backend.store(lease_seconds=5.0)
    inside: list[str] = []

    async def hold(name: str) -> int:
        async with store.lock("s1") as fence:
            inside.append(name)
            assert len(inside) == 1, "two hold one lock"
            async with store.lock("other"):
                await asyncio.sleep(0)
            inside.remove(name)
            assert fence.kind == "lock"
            return fence.token

    tokens = await asyncio.gather(*(hold(f"h{n}") for n in range(5)))
    assert len(set(tokens)) == 5


async def test_a_later_holder_has_a_larger_token(store: SessionStore) -> None:
    """O: what a paused holder still writes is refused."""
    tokens = []
    for _ in range(3):
        async with store.lock("s1") as fence:
            tokens.append(fence.token)
    assert tokens == sorted(set(tokens))


async def test_a_lock_that_stays_taken_times_out(backend: Backend) -> None:
    store, holder = backend.store(lease_seconds=0.1), backend.store(lease_seconds=10.0)
    held = store if backend.name == "memory" else holder
    async with held.lock("s1"):
        with pytest.raises(LockTimeout, match="s1"):
            async with store.lock("s1"):
                pytest.fail("the lock was given twice")
    # Not by the short lease: on a busy machine it may end before the block does.
    async with held.lock("s1"):
        pass


async def test_a_lock_is_free_after_its_holder_failed(store: SessionStore) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.lock("s1"):
            raise ZeroDivisionError
    async with store.lock("s1"):
        pass


async def test_it_answers_and_tells_what_it_is(backend: Backend) -> None:
    store = backend.store()
    await store.ping()
    stats = await store.get_stats()
    assert stats.connected
    assert stats.type == ("in_memory" if backend.name == "memory" else "redis")
