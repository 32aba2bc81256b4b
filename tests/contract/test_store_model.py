"""The in-memory store against a plain dict, over any sequence of writes, deletions and waiting."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from schemas.session import RECENT_EVENTS, SessionData
from store.memory import MemorySessionStore
from store.protocol import Already, Applied, Fence, Fenced, FenceKind, Stale, Stored
from tests.contract.sessions import reply_of

SESSIONS = st.sampled_from(["a", "b"])
KINDS: st.SearchStrategy[FenceKind] = st.sampled_from(["partition", "lock"])
TTL = 10.0


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
    @initialize()
    def start(self) -> None:
        self.now = 0.0
        self.model: dict[str, Model] = {}
        self.store = MemorySessionStore(ttl_seconds=TTL, clock=lambda: self.now)
        self.loop = asyncio.new_event_loop()
        self.events = 0

    def known(self, session_id: str) -> Model | None:
        model = self.model.get(session_id)
        return model if model and model.expires_at > self.now else None

    @rule(
        session_id=SESSIONS,
        behind=st.integers(0, 1),
        token=st.integers(1, 4),
        kind=KINDS,
        repeats=st.booleans(),
        deletes=st.booleans(),
    )
    def commit(self, session_id: str, behind: int, token: int, kind: FenceKind, repeats: bool, deletes: bool) -> None:
        model = self.known(session_id)
        version = model.session.version if model else 0
        expected = max(0, version - behind)
        reborn = model is None or model.session.deleted
        after = SessionData(
            session_id=session_id,
            epoch=version if reborn or model is None else model.session.epoch,
            seq=1 if reborn or model is None else model.session.seq + 1,
            version=expected + 1,
            deleted=deletes,
        )
        self.events += 1
        event_id = model.event_id if model and repeats else f"e{self.events}"
        reply = reply_of(after, event_id)
        outcome = self.loop.run_until_complete(
            self.store.commit_turn(
                after, expected_version=expected, event_id=event_id, fence=Fence(kind, token), reply=reply
            )
        )
        if model and model.fences.get(kind, 0) > token:
            assert outcome == Fenced(model.fences[kind])
        elif expected != version:
            assert model is not None
            assert outcome == (Already(model.events[-1]) if event_id == model.event_id else Stale(version))
        else:
            assert outcome == Applied()
            kept = [] if model is None or after.deleted or after.seq == 1 else model.events
            fences = {**(model.fences if model else {}), kind: token}
            self.model[session_id] = Model(
                after, event_id, kind, self.now + TTL, fences, [*kept, reply][-RECENT_EVENTS:]
            )

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def store_and_model_agree(self) -> None:
        for session_id in ("a", "b"):
            model = self.known(session_id)
            stored = self.loop.run_until_complete(self.store.load(session_id))
            assert stored == (Stored(model.session, model.writer) if model else None)
            alive = self.loop.run_until_complete(self.store.exists(session_id))
            assert alive == (model is not None and not model.session.deleted)
            events = self.loop.run_until_complete(self.store.events(session_id))
            expected = model.events if model else []
            assert list(events) == expected
            newest = self.loop.run_until_complete(self.store.newest_event(session_id))
            assert newest == (expected[-1] if expected else None)

    def teardown(self) -> None:
        self.loop.close()


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


async def test_beyond_its_bound_the_session_that_was_idle_longest_is_forgotten() -> None:
    store = MemorySessionStore(ttl_seconds=TTL, max_sessions=2)
    for session_id, version in [("a", 1), ("b", 1), ("a", 2), ("c", 1)]:
        after = SessionData(session_id=session_id, epoch=1, seq=version, version=version)
        await store.commit_turn(
            after, expected_version=version - 1, event_id=str(version), fence=Fence("lock", 1), reply=reply_of(after)
        )
    assert [await store.exists(session_id) for session_id in "abc"] == [True, False, True]
    assert (await store.get_stats()).details["active_sessions"] == 2
