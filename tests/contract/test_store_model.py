"""A store against a plain dict, over any sequence of writes, deletions and waiting: in memory and on Redis, alone and
behind an L1 cache."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ops.local.redis import RedisServer
from schemas.session import RECENT_EVENTS, SessionData
from store.l1 import L1Cache
from store.memory import MemorySessionStore
from store.protocol import Already, Applied, CommitOutcome, Fence, Fenced, FenceKind, SessionStore, Stale, Stored
from store.redis import RedisSessionStore
from store.redis.connect import RedisConnections, RedisSettings, connect
from tests.contract.backends import Time
from tests.contract.sessions import reply_of

NAMES = ("a", "b")
SESSIONS = st.sampled_from(NAMES)
KINDS: st.SearchStrategy[FenceKind] = st.sampled_from(["partition", "lock"])
RIGHTS = st.sampled_from([0, 0, 1, -1])
"""A writer's fence beside the largest that the session has seen: the same, a later or an earlier one."""
TTL = 10.0
MANY = settings(max_examples=200, stateful_step_count=30, deadline=None)
SOME = settings(MANY, max_examples=60)
"""On Redis, where each takes longer."""


@dataclass
class Model:
    """What is known of one session."""

    session: SessionData
    event_id: str
    writer: FenceKind
    expires_at: float
    fences: dict[FenceKind, int]
    events: list[bytes] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Writes to a store, and knows what must come of it."""

    def __init__(self, store: SessionStore, loop: asyncio.AbstractEventLoop, time: Time) -> None:
        super().__init__()
        self.store = store
        self.loop = loop
        self.time = time
        self.model: dict[str, Model] = {}
        self.ever: set[bytes] = set()
        """Every state that was ever stored."""
        self.events = count(1)

    def known(self, session_id: str) -> Model | None:
        model = self.model.get(session_id)
        return model if model and model.expires_at > self.time.now else None

    def fence(self, session_id: str, kind: FenceKind, right: int) -> Fence:
        model = self.known(session_id)
        largest = model.fences.get(kind, 1) if model else 1
        return Fence(kind, largest + right)

    def following(self, before: SessionData | None, session_id: str, *, deletes: bool) -> SessionData:
        """A state that is like no other."""
        version = before.version if before else 0
        reborn = before is None or before.deleted
        return SessionData(
            session_id=session_id,
            epoch=version if before is None or reborn else before.epoch,
            seq=1 if before is None or reborn else before.seq + 1,
            version=version + 1,
            request_id=f"m{next(self.events)}",
            updated_at=datetime.fromtimestamp(self.time.now, UTC).isoformat(),
            deleted=deletes,
        )

    def write(self, after: SessionData, expected: int, fence: Fence, event_id: str) -> CommitOutcome:
        """Commits `after` over the version `expected`; the outcome must be the model's."""
        model = self.known(after.session_id)
        version = model.session.version if model else 0
        reply = reply_of(after, event_id)
        outcome = self.loop.run_until_complete(
            self.store.commit_turn(after, expected_version=expected, event_id=event_id, fence=fence, reply=reply)
        )
        if model and model.fences.get(fence.kind, 0) > fence.token:
            assert outcome == Fenced(model.fences[fence.kind])
        elif expected != version:
            repeats = model is not None and event_id == model.event_id
            assert outcome == (Already(model.events[-1]) if model and repeats else Stale(version))
        else:
            assert outcome == Applied()
            kept = [] if model is None or after.deleted or after.seq == 1 else model.events
            fences = {**(model.fences if model else {}), fence.kind: fence.token}
            expires_at = self.time.now + TTL
            events = [*kept, reply][-RECENT_EVENTS:]
            self.model[after.session_id] = Model(after, event_id, fence.kind, expires_at, fences, events)
            self.ever.add(after.to_json())
        return outcome

    @rule(
        session_id=SESSIONS,
        behind=st.integers(0, 1),
        right=RIGHTS,
        kind=KINDS,
        repeats=st.booleans(),
        deletes=st.booleans(),
    )
    def commit(self, session_id: str, behind: int, right: int, kind: FenceKind, repeats: bool, deletes: bool) -> None:
        model = self.known(session_id)
        after = self.following(model.session if model else None, session_id, deletes=deletes)
        expected = max(0, after.version - 1 - behind)
        event_id = model.event_id if model and repeats else f"e-{after.request_id}"
        self.write(replace(after, version=expected + 1), expected, self.fence(session_id, kind, right), event_id)

    @invariant()
    def store_and_model_agree(self) -> None:
        for session_id, stored in zip(NAMES, self.loop.run_until_complete(self.stored()), strict=True):
            model = self.known(session_id)
            events = model.events if model else []
            assert stored == (
                Stored(model.session, model.writer) if model else None,
                model is not None and not model.session.deleted,
                events,
                events[-1] if events else None,
            )

    async def stored(self) -> list[tuple[Stored | None, bool, list[bytes], bytes | None]]:
        """All that the store tells of each session; asked for at once, since that is one round trip."""

        async def of(session_id: str) -> tuple[Stored | None, bool, list[bytes], bytes | None]:
            stored, alive, events, newest = await asyncio.gather(
                self.store.load(session_id),
                self.store.exists(session_id),
                self.store.events(session_id),
                self.store.newest_event(session_id),
            )
            return stored, alive, list(events), newest

        return await asyncio.gather(*map(of, NAMES))


class PassingTime(StoreMachine):
    """For a store whose clock a test moves."""

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.time.now += seconds


class BehindL1(StoreMachine):
    """A writer that reads through L1, beside those of `StoreMachine`, of whom L1 knows nothing."""

    def __init__(self, store: SessionStore, loop: asyncio.AbstractEventLoop, time: Time, seen: Counter[str]) -> None:
        super().__init__(store, loop, time)
        self.l1 = L1Cache(size=2, ttl_seconds=100 * TTL, clock=time)
        self.seen = seen

    @rule(session_id=SESSIONS, right=RIGHTS, deletes=st.booleans(), overtaken=st.booleans())
    def turn(self, session_id: str, right: int, deletes: bool, overtaken: bool) -> None:
        """U: what was made from a stale read is not written, whatever its version is."""
        before = self.read(session_id)
        if overtaken:
            self.commit(session_id, behind=0, right=0, kind="lock", repeats=False, deletes=False)
        model = self.known(session_id)
        is_stale = before != (model.session if model else None)
        after = self.following(before, session_id, deletes=deletes)
        fence = self.fence(session_id, "partition", right)
        outcome = self.write(after, after.version - 1, fence, f"e-{after.request_id}")
        self.seen[f"{type(outcome).__name__} {'over a stale' if is_stale else 'over a fresh'} read"] += 1
        if outcome == Applied():
            assert not is_stale
            self.put(after)
        else:
            self.l1.drop(session_id)
            assert self.read(session_id) == (model.session if model else None), "who reads again knows better"

    def read(self, session_id: str) -> SessionData | None:
        """Possibly stale, but nothing that never was."""
        session = self.l1.get(session_id)
        if session is None:
            stored = self.loop.run_until_complete(self.store.load(session_id))
            session = stored.session if stored else None
            if session is not None:
                self.put(session)
        assert session is None or session.to_json() in self.ever
        return session

    def put(self, session: SessionData) -> None:
        lives_seconds = session.expires_at(self.store.ttl_of(session)) - self.time.now
        self.l1.put(session, "p0", lives_seconds)


class PassingTimeBehindL1(BehindL1, PassingTime):
    """Both."""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def redis(redis_server: RedisServer, loop: asyncio.AbstractEventLoop) -> Iterator[RedisConnections]:
    connections = connect(RedisSettings(redis_server.url))
    yield connections
    for link in connections.links:
        loop.run_until_complete(link.close())
    loop.run_until_complete(connections.close())


def in_memory(time: Time) -> SessionStore:
    return MemorySessionStore(ttl_seconds=TTL, clock=time)


NewStore = Callable[[], SessionStore]


@pytest.fixture
def on_redis(redis: RedisConnections, redis_prefix: str) -> NewStore:
    """Makes one with keys of its own."""
    made = count()
    return lambda: RedisSessionStore(redis, ttl_seconds=600, key_prefix=f"{redis_prefix}{next(made)}:")


def test_a_store_in_memory_is_as_the_model_says(loop: asyncio.AbstractEventLoop) -> None:
    class Machine(PassingTime):
        def __init__(self) -> None:
            time = Time()
            super().__init__(in_memory(time), loop, time)

    run_state_machine_as_test(Machine, settings=MANY)


def test_a_store_on_redis_is_as_the_model_says(loop: asyncio.AbstractEventLoop, on_redis: NewStore) -> None:
    """Its time can't be moved, so nothing expires here."""

    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(on_redis(), loop, Time())

    run_state_machine_as_test(Machine, settings=SOME)


def test_a_stale_read_is_never_written_in_memory(loop: asyncio.AbstractEventLoop) -> None:
    """U"""
    seen: Counter[str] = Counter()

    class Machine(PassingTimeBehindL1):
        def __init__(self) -> None:
            time = Time()
            super().__init__(in_memory(time), loop, time, seen)

    run_state_machine_as_test(Machine, settings=MANY)
    assert_both_kinds_of_reads(seen)


def test_a_stale_read_is_never_written_on_redis(loop: asyncio.AbstractEventLoop, on_redis: NewStore) -> None:
    """U"""
    seen: Counter[str] = Counter()

    class Machine(BehindL1):
        def __init__(self) -> None:
            super().__init__(on_redis(), loop, Time(), seen)

    run_state_machine_as_test(Machine, settings=SOME)
    assert_both_kinds_of_reads(seen)


def assert_both_kinds_of_reads(seen: Counter[str]) -> None:
    """Where nothing stale was read, nothing was shown."""
    assert seen["Stale over a stale read"] > 0
    assert seen["Applied over a fresh read"] > 0


async def test_a_life_that_was_cut_short_is_not_continued_from_l1() -> None:
    """U, R: L1 still has it when the session has ended and begun anew under the same version."""
    time = Time()
    store, l1 = MemorySessionStore(ttl_seconds=600, clock=time), L1Cache(size=10, ttl_seconds=600, clock=time)
    owner, other = Fence("partition", 1), Fence("lock", 1)

    async def write(after: SessionData, fence: Fence) -> CommitOutcome:
        reply = reply_of(after)
        expected, event_id = after.version - 1, f"e{after.epoch}-{after.version}"
        return await store.commit_turn(after, expected_version=expected, event_id=event_id, fence=fence, reply=reply)

    first = SessionData(session_id="s1", epoch=1_000, seq=1, version=1)
    assert await write(first, owner) == Applied()
    l1.put(first, "p0", store.ttl_of(first))
    # As `DirectSessions.set` gives a session a time to live of its own.
    assert await write(replace(first, seq=2, version=2, ttl_seconds=1), other) == Applied()
    time.now += 2.0
    anew = SessionData(session_id="s1", epoch=3_000, seq=1, version=1)
    assert await write(anew, other) == Applied()
    cached = l1.get("s1")
    assert cached == first
    assert await write(replace(cached, seq=2, version=2), owner) == Stale(1)
    assert await store.get("s1") == anew


async def test_beyond_its_bound_the_session_that_was_idle_longest_is_forgotten() -> None:
    store = MemorySessionStore(ttl_seconds=TTL, max_sessions=2)
    for session_id, version in [("a", 1), ("b", 1), ("a", 2), ("c", 1)]:
        after = SessionData(session_id=session_id, epoch=1, seq=version, version=version)
        await store.commit_turn(
            after, expected_version=version - 1, event_id=str(version), fence=Fence("lock", 1), reply=reply_of(after)
        )
    assert [await store.exists(session_id) for session_id in "abc"] == [True, False, True]
    assert (await store.get_stats()).details["active_sessions"] == 2
