"""An inbound id that left a session's own list is remembered for a day beside it, on every backend (D, L)."""

from dataclasses import replace

import pytest

from schemas.session import EARLIER_IDS_MS, RECENT_EVENTS, SessionData
from store.protocol import Answered, Applied, CommitOutcome, Fence, Fenced, PushedOut, Restorable, SessionStore, Stale
from tests.contract.sessions import AT, reply_of, session, tombstone

DAY = EARLIER_IDS_MS
NOW = 1_767_323_045_678
"""`AT` in ms."""


async def commit(
    store: SessionStore, after: SessionData, *, answers: str = "", pushed_out: PushedOut = (), token: int = 1
) -> CommitOutcome:
    return await store.commit_turn(
        after,
        expected_version=after.version - 1,
        event_id=f"event-{after.session_id}-{after.epoch}-{after.version}",
        fence=Fence("partition", token),
        reply=reply_of(after),
        answers=answers,
        pushed_out=pushed_out,
    )


async def remembering(store: SessionStore, *pushed_out: tuple[str, int], session_id: str = "s1") -> SessionData:
    """A session of two turns, the second of which pushed out these ids."""
    await commit(store, session(session_id))
    after = session(session_id, seq=2)
    assert await commit(store, after, pushed_out=pushed_out) == Applied()
    return after


def following(before: SessionData) -> SessionData:
    return session(before.session_id, seq=before.seq + 1, version=before.version + 1, epoch=before.epoch)


async def is_remembered(store: SessionStore, before: SessionData, inbound_id: str) -> bool:
    """Whether a turn after `before` that answers this id is refused. One that is not is written."""
    outcome = await commit(store, following(before), answers=inbound_id)
    assert outcome in (Answered(), Applied())
    return outcome == Answered()


def test_the_times_of_these_tests_are_the_sessions() -> None:
    assert replace(session(), updated_at=AT).updated_ms() == NOW


async def test_an_id_that_was_pushed_out_is_not_answered_again_and_nothing_is_written(store: SessionStore) -> None:
    """D"""
    before = await remembering(store, ("m0", NOW))
    for _ in range(2):
        assert await commit(store, following(before), answers="m0") == Answered()
    assert await store.get("s1") == before
    assert await store.events("s1") == [reply_of(session()), reply_of(before)]


async def test_an_id_that_is_new_is_answered(store: SessionStore) -> None:
    """L"""
    before = await remembering(store, ("m0", NOW))
    assert not await is_remembered(store, before, "m00")
    assert not await is_remembered(store, following(before), "")


async def test_an_id_of_another_session_is_answered(store: SessionStore) -> None:
    """X, L: an id means something in its session only."""
    await remembering(store, ("m0", NOW))
    other = await remembering(store, session_id="s2")
    assert not await is_remembered(store, other, "m0")


async def test_an_id_is_remembered_for_a_day_of_the_session_s_own_time_and_forgotten_then(store: SessionStore) -> None:
    """D, L: by the times of its events, whatever clock the store has."""
    before = await remembering(store, ("old", NOW))
    before = following(before)
    await commit(store, before, pushed_out=[("edge", NOW + 1)])
    assert await is_remembered(store, before, "old")
    before = following(before)
    await commit(store, before, pushed_out=[("new", NOW + 1 + DAY)])
    for inbound_id in ("new", "edge"):
        assert await is_remembered(store, before, inbound_id), inbound_id
    assert not await is_remembered(store, before, "old")


async def test_several_ids_that_are_pushed_out_at_once_are_all_remembered(store: SessionStore) -> None:
    before = await remembering(store, *((f"m{n}", NOW) for n in range(100)))
    for n in range(100):
        assert await is_remembered(store, before, f"m{n}"), n


@pytest.mark.parametrize("inbound_id", ["x" * 300, "ünïcode ✓", "a b", "'\"\n"])
async def test_any_id_is_remembered_by_itself(store: SessionStore, inbound_id: str) -> None:
    before = await remembering(store, (inbound_id, NOW))
    assert await is_remembered(store, before, inbound_id)
    assert not await is_remembered(store, before, inbound_id + "x")


async def test_a_fenced_and_a_late_writer_are_told_so_first(store: SessionStore) -> None:
    """O: that the id was answered is no news for one that has no right."""
    await commit(store, session())
    before = session(seq=2)
    await commit(store, before, pushed_out=[("m0", NOW)], token=5)
    assert await commit(store, following(before), answers="m0", token=4) == Fenced(5)
    assert await commit(store, following(following(before)), answers="m0", token=5) == Stale(2)


async def test_a_write_that_is_refused_remembers_nothing(store: SessionStore) -> None:
    """L"""
    before = await remembering(store)
    assert await commit(store, following(following(before)), pushed_out=[("m0", NOW)]) == Stale(2)
    assert await commit(store, following(before), pushed_out=[("m0", NOW)], token=0) == Fenced(1)
    assert not await is_remembered(store, before, "m0")


async def test_a_new_life_forgets_the_ids_of_the_one_before(store: SessionStore) -> None:
    """L: a customer who was deleted may say anything anew."""
    before = await remembering(store, ("m0", NOW))
    deleted = tombstone(before)
    assert await commit(store, deleted) == Applied()
    reborn = session(epoch=2_000, version=deleted.version + 1)
    assert await commit(store, reborn, answers="m0") == Applied()
    assert not await is_remembered(store, reborn, "m0")


async def test_a_deletion_is_written_whatever_it_answers(store: SessionStore) -> None:
    """L: nothing of the session may stay because of an id."""
    before = await remembering(store, ("d0", NOW))
    assert await commit(store, tombstone(before), answers="d0") == Applied()
    assert await store.get("s1") is None


async def test_a_life_that_begins_over_another_forgets_its_ids(store: SessionStore) -> None:
    """L: the first turn of a session that had expired for its worker, and not for the store."""
    before = await remembering(store, ("m0", NOW))
    reborn = session(epoch=2_000, version=before.version + 1)
    assert await commit(store, reborn, answers="m0") == Applied()
    assert not await is_remembered(store, reborn, "m0")


async def restore(store: SessionStore, after: SessionData, *pushed_out: tuple[str, int]) -> None:
    event_id = f"event-{after.session_id}-{after.epoch}-{after.version}"
    lost = Restorable(after, event_id, [reply_of(after)], 30.0, pushed_out)
    assert await store.restore([lost], Fence("partition", 1)) == [Applied()]


async def test_a_session_that_is_put_back_has_its_ids(store: SessionStore) -> None:
    """D"""
    after = session(seq=60)
    await restore(store, after, *((f"m{n}", NOW + n) for n in range(28)))
    for n in range(28):
        assert await is_remembered(store, after, f"m{n}"), n
    assert await store.events("s1") == [reply_of(after)]


async def test_what_is_put_back_adds_to_the_ids_that_are_there(store: SessionStore) -> None:
    """D: the store had lost only the newest turns."""
    await remembering(store, ("m0", NOW))
    after = session(seq=9)
    await restore(store, after, ("m1", NOW))
    for inbound_id in ("m0", "m1"):
        assert await is_remembered(store, after, inbound_id), inbound_id


async def test_a_later_life_that_is_put_back_forgets_the_ids_that_are_there(store: SessionStore) -> None:
    """L"""
    await remembering(store, ("m0", NOW))
    after = session(seq=2, version=9, epoch=2_000)
    await restore(store, after, ("m1", NOW))
    assert await is_remembered(store, after, "m1")
    assert not await is_remembered(store, after, "m0")


async def test_ids_do_not_count_among_the_newest_events(store: SessionStore) -> None:
    after = await remembering(store, ("m0", NOW))
    for _ in range(RECENT_EVENTS):
        after = following(after)
        await commit(store, after, pushed_out=[(f"p{after.seq}", NOW + after.seq)])
    assert len(await store.events("s1")) == RECENT_EVENTS
    assert await is_remembered(store, after, "m0")


async def test_thousands_of_ids_are_put_back_at_once(store: SessionStore) -> None:
    """D: as many as a day of a busy session has."""
    after = session(seq=60)
    await restore(store, after, *((f"m{n}", NOW + n) for n in range(10_000)))
    for n in (0, 9_999):
        assert await is_remembered(store, after, f"m{n}"), n
