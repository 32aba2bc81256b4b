"""A working copy's session is written with its events, and only over what it was folded from."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from schemas.session import EARLIER_IDS_MS, RECENT_EVENTS, SessionData
from store.encryption import PlainText
from store.protocol import Answered, Applied, Fence, Restorable, SessionStore, Stored
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from store.redis.keys import Keys
from store.redis.working_copy import Folded, Step, WorkingCopy
from tests.contract.conftest import tls_settings
from tests.contract.sessions import commit, commit_up_to, reply_of
from tests.contract.sessions import session as live_session

NewCopy = Callable[[], WorkingCopy]


@pytest.fixture(params=["redis", "cluster", "tls"])
def settings(request: pytest.FixtureRequest) -> RedisSettings:
    """With TLS as a user who may do no more than docs/security.md says."""
    if request.param == "tls":
        return tls_settings(request.getfixturevalue("redis_tls"))
    if request.param == "redis":
        return RedisSettings(request.getfixturevalue("redis_server").url)
    return RedisSettings(f"redis+cluster://{request.getfixturevalue('redis_cluster').url.removeprefix('redis://')}")


@pytest.fixture
async def new_copy(settings: RedisSettings, redis_prefix: str) -> AsyncIterator[NewCopy]:
    """Writers of the same working copy."""
    async with AsyncExitStack() as stack:

        def make() -> WorkingCopy:
            copy = WorkingCopy(
                connect(settings),
                live_prefix=redis_prefix,
                name="x",
                cipher=PlainText(),
                whole=True,
                keep_seconds=60,
            )
            stack.push_async_callback(copy.close)
            return copy

        yield make


@pytest.fixture
async def live(settings: RedisSettings, redis_prefix: str) -> AsyncIterator[SessionStore]:
    """The sessions beside which the copy is made."""
    store = RedisSessionStore(connect(settings), ttl_seconds=60, key_prefix=redis_prefix)
    yield store
    await store.close()


def folded(seq: int, epoch: int = 1) -> Folded:
    return Folded(SessionData(session_id="s-1", epoch=epoch, seq=seq, version=seq), f"e-{seq}") if seq else Folded(None)


def step(begin: int, end: int, *, anew: bool = False) -> Step:
    """From `begin` to `end`, an event for each."""
    return Step(folded(begin), folded(end), [b"%d" % n for n in range(begin + 1, end + 1)], anew)


async def events_of(copy: WorkingCopy) -> list[int]:
    [(_, events, _)] = await copy.whole(["s-1"])
    return [int(event) for event in events]


async def test_events_follow_each_other_and_the_newest_are_kept(new_copy: NewCopy) -> None:
    copy = new_copy()
    assert await copy.write([step(0, 2, anew=True)]) == [True]
    assert await copy.write([step(2, 60)]) == [True]
    assert await events_of(copy) == list(range(61 - RECENT_EVENTS, 61))
    assert await copy.write([Step(folded(60), folded(1, epoch=2), [b"1"], anew=True)]) == [True]
    assert await events_of(copy) == [1]


async def test_a_step_that_comes_again_changes_nothing(new_copy: NewCopy) -> None:
    copy = new_copy()
    for _ in range(2):
        await copy.write([step(0, 3, anew=True)])
        await copy.write([step(3, 5)])
    assert await events_of(copy) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("before", [0, 3])
async def test_what_a_writer_left_that_was_killed_counts_for_nothing(
    new_copy: NewCopy, settings: RedisSettings, redis_prefix: str, before: int
) -> None:
    copy = new_copy()
    if before:
        await copy.write([step(0, before, anew=True)])
    redis = connect(settings)
    await redis.client.rpush(f"{redis_prefix}replay:2:x:{{s-1}}:events", "4", "5", "the mark of another writer")
    await redis.close()
    written = [await copy.write([step(before, 6, anew=not before)]) for _ in range(2)]
    assert written == [[False], [True]]
    assert await events_of(copy) == [1, 2, 3, 4, 5, 6]


async def test_folding_goes_on_from_a_snapshot_and_after_the_switch(new_copy: NewCopy) -> None:
    copy = new_copy()
    snapshot = folded(3)
    await copy.seed([(snapshot, [b"2", b"3"])])
    assert await copy.write([step(3, 5)]) == [True]
    assert await events_of(copy) == [2, 3, 4, 5]
    session = folded(5).session
    assert session is not None
    assert await copy.switch([(session, 60.0)]) == 1
    assert await copy.write([step(5, 6)]) == [True]
    assert await copy.switch([(session, 60.0)]) == 1, "it is remembered"


async def test_of_writers_at_the_same_time_one_wins_and_all_events_are_there_once(new_copy: NewCopy) -> None:
    last = 200

    async def write_on(copy: WorkingCopy) -> int:
        won = 0
        while True:
            [found] = await copy.read(["s-1"])
            at = found.session.seq if found.session is not None else 0
            if at >= last:
                return won
            # Of the same length: nothing but its mark tells one writer's events from another's.
            [written] = await copy.write([step(at, at + 2, anew=not at)])
            won += written

    won = await asyncio.gather(*(write_on(new_copy()) for _ in range(4)))
    assert sum(won) == last / 2
    assert await events_of(new_copy()) == list(range(last + 1 - RECENT_EVENTS, last + 1))


async def rebuilt(copy: WorkingCopy, session: SessionData) -> SessionData:
    """Folds the session, as one step, into the copy."""
    after = Folded(session, f"event-{session.session_id}-{session.version}")
    assert await copy.write([Step(Folded(None), after, [reply_of(session)], anew=True)]) == [True]
    return session


@pytest.mark.parametrize(
    ("epoch", "turns"), [(1_000, 3), (1_000, 12), (2_000, 1)], ids=["a later version", "two digits", "a later life"]
)
async def test_what_is_live_and_later_than_the_copy_stays(
    new_copy: NewCopy, live: SessionStore, epoch: int, turns: int
) -> None:
    """U: a turn that was committed while the copy was made wins."""
    copy = new_copy()
    made = await rebuilt(copy, live_session(seq=2))
    for seq in range(1, turns + 1):
        last = live_session(seq=seq, epoch=epoch)
        assert await commit(live, last) == Applied()
    assert await copy.switch([(made, 60.0)]) == 0
    assert await live.load("s1") == Stored(last, "partition")
    assert await live.newest_event("s1") == reply_of(last)


@pytest.mark.parametrize(
    ("epoch", "turns"), [(1_000, 1), (1_000, 9), (900, 12)], ids=["earlier", "the same version", "an earlier life"]
)
async def test_what_is_live_and_not_later_than_the_copy_is_replaced(
    new_copy: NewCopy, live: SessionStore, epoch: int, turns: int
) -> None:
    """R"""
    copy = new_copy()
    made = await rebuilt(copy, live_session(seq=9))
    for seq in range(1, turns + 1):
        await commit(live, live_session(seq=seq, epoch=epoch), mark="live")
    assert await copy.switch([(made, 60.0)]) == 1
    assert await live.load("s1") == Stored(made, "partition")
    assert await live.events("s1") == [reply_of(made)]


def earlier_ids(prefix: str) -> str:
    """The key of the ids that left the session's own list."""
    return Keys(prefix).earlier_ids("s1")


async def pushing_out(store: SessionStore, after: SessionData, *inbound_ids: str) -> SessionData:
    """Commits `after`, which pushes out these ids."""
    outcome = await store.commit_turn(
        after,
        expected_version=after.version - 1,
        event_id=f"event-{after.version}",
        fence=Fence("partition", 1),
        reply=reply_of(after),
        pushed_out=[(each, 1_767_323_045_678) for each in inbound_ids],
    )
    assert outcome == Applied()
    return after


async def is_answered(store: SessionStore, before: SessionData, inbound_id: str) -> bool:
    """Whether a turn that follows `before` and answers this id is refused. One that is not is written."""
    after = live_session(seq=before.seq + 1, epoch=before.epoch)
    outcome = await store.commit_turn(
        after,
        expected_version=before.version,
        event_id=f"event-{inbound_id}",
        fence=Fence("partition", 1),
        reply=reply_of(after),
        answers=inbound_id,
    )
    assert outcome in (Applied(), Answered())
    return outcome == Answered()


async def rebuilt_with(copy: WorkingCopy, session: SessionData, *inbound_ids: str) -> SessionData:
    """As `rebuilt`; these ids left the session's own list on the way."""
    after = Folded(session, f"event-{session.session_id}-{session.version}")
    pushed_out = [(each, 1_767_323_045_678) for each in inbound_ids]
    [written] = await copy.write([Step(Folded(None), after, [reply_of(session)], anew=True, pushed_out=pushed_out)])
    assert written
    return session


async def test_the_switch_keeps_the_ids_that_are_live_and_adds_those_that_were_rebuilt(
    new_copy: NewCopy, live: SessionStore
) -> None:
    """D"""
    copy = new_copy()
    await pushing_out(live, live_session())
    await pushing_out(live, live_session(seq=2), "live")
    made = await rebuilt_with(copy, live_session(seq=2), "rebuilt")
    assert await copy.switch([(made, 60.0)]) == 1
    for inbound_id in ("live", "rebuilt"):
        assert await is_answered(live, made, inbound_id), inbound_id
    assert not await is_answered(live, made, "new")


async def test_a_session_that_was_lost_has_its_ids_again_after_the_switch(
    new_copy: NewCopy, live: SessionStore
) -> None:
    """D"""
    copy = new_copy()
    made = await rebuilt_with(copy, live_session(seq=40), *(f"m{n}" for n in range(8)))
    assert await copy.switch([(made, 60.0)]) == 1
    for n in range(8):
        assert await is_answered(live, made, f"m{n}"), n


async def test_the_switch_to_a_later_life_forgets_the_ids_that_are_live(new_copy: NewCopy, live: SessionStore) -> None:
    """L"""
    copy = new_copy()
    await pushing_out(live, live_session())
    await pushing_out(live, live_session(seq=2), "earlier life")
    made = await rebuilt_with(copy, live_session(seq=3, epoch=2_000), "later life")
    assert await copy.switch([(made, 60.0)]) == 1
    assert await is_answered(live, made, "later life")
    assert not await is_answered(live, made, "earlier life")


async def test_ids_of_a_step_that_another_writer_took_are_remembered_all_the_same(
    new_copy: NewCopy, live: SessionStore
) -> None:
    """D: that an id was answered stays true."""
    made = await rebuilt_with(new_copy(), live_session(seq=2), "first")
    late = Step(Folded(None), Folded(made, "event"), [reply_of(made)], anew=True, pushed_out=[("second", 1)])
    copy = new_copy()
    assert await copy.write([late]) == [False]
    assert await copy.switch([(made, 60.0)]) == 1
    for inbound_id in ("first", "second"):
        assert await is_answered(live, made, inbound_id), inbound_id


async def test_ids_end_by_themselves_a_day_after_the_last_one(
    new_copy: NewCopy, live: SessionStore, settings: RedisSettings, redis_prefix: str
) -> None:
    """A session that is never written again leaves nothing behind."""
    connections = connect(settings)
    key = earlier_ids(redis_prefix)
    await pushing_out(live, live_session())
    await pushing_out(live, live_session(seq=2), "m0")
    assert EARLIER_IDS_MS - 60_000 < await connections.client.pttl(key) <= EARLIER_IDS_MS
    await connections.client.pexpire(key, 1_000)
    after = live_session(seq=3)
    await live.restore([Restorable(after, "e", [reply_of(after)], 30.0, [("m1", 1)])], Fence("partition", 1))
    assert EARLIER_IDS_MS - 60_000 < await connections.client.pttl(key) <= EARLIER_IDS_MS
    await connections.client.pexpire(key, 1_000)
    copy = new_copy()
    made = await rebuilt_with(copy, live_session(seq=4), "m2")
    assert 0 < await connections.client.pttl(earlier_ids(f"{redis_prefix}replay:2:x:")) <= 60_000
    assert await copy.switch([(made, 60.0)]) == 1
    assert EARLIER_IDS_MS - 60_000 < await connections.client.pttl(key) <= EARLIER_IDS_MS
    await connections.close()


async def test_a_session_that_was_written_since_it_was_looked_at_is_not_removed(
    new_copy: NewCopy, live: SessionStore
) -> None:
    """U"""
    copy = new_copy()
    last = await commit_up_to(live, 2)
    [looked_at] = await copy.pairs(["s1"])
    last = live_session(seq=3)
    await commit(live, last)
    assert await copy.remove([looked_at]) == 0
    assert await live.get("s1") == last
    assert len(await live.events("s1")) == 3
    [looked_at] = await copy.pairs(["s1"])
    assert await copy.remove([looked_at]) == 1
    assert await live.load("s1") is None
    assert await live.events("s1") == []


async def test_a_session_that_began_anew_with_the_same_version_is_not_removed(
    new_copy: NewCopy, live: SessionStore
) -> None:
    """U"""
    copy = new_copy()
    await commit(live, live_session())
    [looked_at] = await copy.pairs(["s1"])
    await copy.remove([looked_at])
    reborn = live_session(epoch=2_000)
    await commit(live, reborn)
    assert await copy.remove([looked_at]) == 0
    assert await live.get("s1") == reborn


async def test_folding_into_a_new_life_forgets_the_ids_of_the_one_before(new_copy: NewCopy, live: SessionStore) -> None:
    """L: a message with an id of the earlier life is answered."""
    copy = new_copy()
    first = await rebuilt_with(copy, live_session(seq=40), "earlier life")
    reborn = live_session(seq=1, version=42, epoch=2_000)
    before = Folded(first, f"event-{first.session_id}-{first.version}")
    assert await copy.write([Step(before, Folded(reborn, "e"), [reply_of(reborn)], anew=True)]) == [True]
    assert await copy.switch([(reborn, 60.0)]) == 1
    after = live_session(seq=2, version=43, epoch=2_000)
    fence = Fence("partition", 1)
    outcome = await live.commit_turn(
        after, expected_version=42, event_id="x", fence=fence, reply=reply_of(after), answers="earlier life"
    )
    assert outcome == Applied()
