"""Exceptions that the code does not know: no record vanishes, what is decided is published, cleanups end."""

import asyncio
from collections import deque
from collections.abc import Collection, Mapping

import pytest

from schemas.publishing import BrokerUnavailable, RecordTooLarge
from schemas.replies import SessionDeleted
from store.errors import StoreReplaced, StoreUnavailable
from store.memory import MemorySessionStore
from store.seals import NoKeys
from tests.unit.workers.dispatch_rig import P0, Rig, working
from tests.unit.workers.fakes import TOPICS, FakePublisher, Worker, away, home, inbound, until
from workers import dispatch, turn
from workers.records import Partition


class Unheard(Exception):
    """A type that the code does not know."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CRASH_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(turn, "PUBLISH_WAIT_SECONDS", 0.0005)
    monkeypatch.setattr(turn, "PUBLISH_WAIT_MAX_SECONDS", 0.001)


# ---- the dispatcher


@pytest.mark.parametrize("error", [Unheard("?"), RuntimeError("reset"), AssertionError(), TimeoutError()])
async def test_a_turn_that_ends_in_an_unknown_exception_is_run_again_until_it_is_done(error: Exception) -> None:
    """L, C"""
    async with working("a", "a", "b") as rig:
        for _ in range(3):
            await rig.turns.end(0, error)
        await rig.turns.end(2)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {}
        await rig.turns.end(0)
        await rig.turns.end(1)
        await rig.dispatcher.commit()
        assert [offset for offset in rig.turns.offsets if offset != 2] == [0, 0, 0, 0, 1]
        assert rig.consumer.committed == {P0: 3}


async def test_a_cancellation_that_was_not_asked_for_ends_no_turn() -> None:
    """L: it came from something that the turn waited for."""
    async with working("a", "b") as rig:
        await until(lambda: len(rig.turns.running) == 2)
        rig.turns.running[0][1].cancel()
        await until(lambda: rig.turns.offsets == [0, 1, 0])
        await rig.turns.end(0)
        await rig.turns.end(1)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 2}


async def test_a_turn_that_crashes_again_and_again_ends_with_its_partition() -> None:
    """O, L: it is left to the next owner."""
    async with working("a") as rig:
        await rig.turns.end(0, Unheard("?"))
        await rig.dispatcher.revoked([P0])
        assert rig.dispatcher.assignments == {}
        begun = len(rig.turns.started)
        await rig.assign(P0)
        rig.feed(P0)
        await until(lambda: len(rig.turns.started) == begun + 1)
        await rig.turns.end(0)
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 1}


@pytest.mark.parametrize("error", [Unheard("?"), RuntimeError("reset"), AssertionError()])
async def test_a_commit_that_the_group_answers_with_an_unknown_exception_is_tried_again(error: Exception) -> None:
    """C, H"""
    async with working("a") as rig:
        rig.consumer.refusals += [error, error]
        await rig.turns.end(0)
        for _ in range(2):
            await rig.dispatcher.commit()
            assert rig.consumer.committed == {}
            assert rig.dispatcher.commit_error is not None
            assert type(error).__name__ in rig.dispatcher.commit_error
        assert rig.dispatcher.commit_problem(-1.0) is not None
        await rig.dispatcher.commit()
        assert rig.consumer.committed == {P0: 1}
        assert rig.dispatcher.commit_error is None
        assert rig.dispatcher.commit_problem(0.0) is None


class FailingProgress(MemorySessionStore):
    """Raises `errors`, one each time that progress is saved."""

    def __init__(self) -> None:
        super().__init__(ttl_seconds=60)
        self.errors: deque[BaseException] = deque()

    async def save_progress(self, offsets: Mapping[str, int]) -> None:
        if self.errors:
            raise self.errors.popleft()
        await super().save_progress(offsets)


async def owning(store: MemorySessionStore, *sessions: str) -> Rig:
    """A rig that has taken a record of each session."""
    rig = Rig(store, drain=5.0)
    rig.consumer.produce(P0, *sessions)
    await rig.assign(P0)
    rig.feed(P0)
    await until(lambda: len(rig.turns.running) == len(sessions))
    return rig


async def test_progress_that_cannot_be_saved_is_saved_with_the_next_commit_and_the_group_waits() -> None:
    """C: the group is never ahead of the store."""
    store = FailingProgress()
    rig = await owning(store, "a")
    await rig.turns.end(0)
    store.errors.append(Unheard("?"))
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {}
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 1}
    assert await store.progress([str(P0)]) == {str(P0): 1}


def assert_nothing_is_left(rig: Rig) -> None:
    assert rig.dispatcher.assignments == {}
    assert rig.dispatcher.owned == []
    assert rig.dispatcher.open_records == 0
    assert rig.dispatcher.refused == {}


async def test_a_revocation_whose_commit_fails_leaves_nothing_behind() -> None:
    """O"""
    store = FailingProgress()
    rig = await owning(store, "a")
    await rig.turns.end(0)
    store.errors.append(Unheard("?"))
    await rig.dispatcher.revoked([P0])
    assert_nothing_is_left(rig)
    assert rig.consumer.committed == {}


async def test_a_revocation_whose_commit_is_cut_off_leaves_nothing_behind() -> None:
    """O, L: a commit that something else cancelled is one that failed; and the partition is worked on when it comes
    back."""
    store = FailingProgress()
    rig = await owning(store, "a")
    await rig.turns.end(0)
    store.errors.append(asyncio.CancelledError())
    await rig.dispatcher.revoked([P0])
    assert_nothing_is_left(rig)
    await rig.assign(P0)
    rig.feed(P0)
    await rig.turns.end(0)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {P0: 1}


async def test_a_revocation_whose_drain_is_cut_off_leaves_nothing_behind() -> None:
    """O"""
    rig = await owning(MemorySessionStore(ttl_seconds=60), "a", "b")
    revoking = asyncio.create_task(rig.dispatcher.revoked([P0]))
    await asyncio.sleep(0)
    revoking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await revoking
    assert_nothing_is_left(rig)
    for offset in (0, 1):
        await rig.turns.end(offset)
    await rig.dispatcher.commit()
    assert rig.consumer.committed == {}, "it is another worker's now"


@pytest.mark.parametrize("error", [Unheard("?"), RuntimeError("reset"), StoreUnavailable("away")])
async def test_an_assignment_waits_through_unknown_exceptions_and_says_why(error: Exception) -> None:
    """H, L"""

    class Failing(MemorySessionStore):
        failing = True

        async def next_fence(self) -> int:
            if self.failing:
                raise error
            return await super().next_fence()

    store = Failing(ttl_seconds=60)
    rig = Rig(store)
    rig.consumer.produce(P0, "a")
    await rig.dispatcher.assigned([P0])
    await until(lambda: type(error).__name__ in (rig.dispatcher.preparing_problem(-1.0) or ""))
    store.failing = False
    await until(lambda: P0 in rig.dispatcher.assignments)
    assert rig.dispatcher.preparing_problem(-1.0) is None
    rig.feed(P0)
    await rig.turns.end(0)


# ---- after the compare-and-set


UNKNOWN = pytest.mark.parametrize(
    "error",
    [
        BrokerUnavailable("away"),
        AssertionError("stale metadata"),
        TypeError("stale metadata"),
        RecordTooLarge("2 MB"),
        RuntimeError("reset"),
        Unheard("?"),
    ],
    ids=lambda error: type(error).__name__,
)
PLACES = pytest.mark.parametrize("at", [home("s1"), away("s1")], ids=["under the partition", "under the lock"])


@UNKNOWN
@PLACES
async def test_a_reply_that_is_in_the_store_is_published_however_often_that_fails(
    error: Exception, at: Partition
) -> None:
    """L, D, R: no dead letter, nothing is generated again, no seq is left out."""
    worker = Worker(attempts=2)
    worker.publisher.fail(TOPICS.replies, *[error] * 7)
    await worker.run(*(inbound("s1", n, at=at, id=f"m{n}", text="Hello") for n in range(3)))
    assert worker.publisher.seqs == [1, 2, 3]
    assert worker.generator.calls == ["m0", "m1", "m2"]
    assert worker.publisher.of(TOPICS.dlq) == []
    assert worker.observer.seen[f"retried:{type(error).__name__}"] == 7


@UNKNOWN
async def test_a_reply_whose_acknowledgement_is_lost_comes_again_with_the_same_bytes(error: Exception) -> None:
    """D"""
    worker = Worker(attempts=2)
    worker.publisher.lose_acknowledgement(TOPICS.replies, *[error] * 3)
    await worker.run(inbound("s1", 0, id="m0", text="Hello"))
    assert len(worker.publisher.of(TOPICS.replies)) == 4
    assert len(worker.publisher.contents_of("m0")) == 1
    assert worker.publisher.of(TOPICS.dlq) == []


@UNKNOWN
async def test_a_stored_reply_of_a_redelivered_record_is_published_however_often_that_fails(error: Exception) -> None:
    """L, D"""
    worker = Worker(attempts=2)
    record = inbound("s1", 0, id="m0", text="Hello")
    await worker.run(record)
    fresh = worker.restarted()
    worker.publisher.fail(TOPICS.replies, *[error] * 7)
    await fresh.run(record)
    assert len(worker.publisher.of(TOPICS.replies)) == 2
    assert worker.publisher.of(TOPICS.dlq) == []


async def test_a_turn_that_is_told_to_end_while_its_reply_waits_is_published_by_the_next_owner() -> None:
    """L, D"""
    worker = Worker()
    worker.publisher.fail(TOPICS.replies, *[Unheard("?")] * 100_000)
    record = inbound("s1", 0, id="m0", text="Hello")
    running = asyncio.create_task(worker.run(record))
    await until(lambda: worker.observer.seen["retried:Unheard"] > 3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    worker.publisher.failures.clear()
    fresh = worker.restarted()
    await fresh.run(record)
    assert fresh.generator.calls == []
    assert worker.publisher.seqs == [1]
    assert worker.publisher.of(TOPICS.dlq) == []


class FailingSeals(NoKeys):
    """Can't destroy keys, as `errors` say."""

    def __init__(self, publisher: FakePublisher, *errors: Exception) -> None:
        self.errors = deque(errors)
        self.destroyed = 0
        self._publisher = publisher
        self.published_before: list[int] = []

    async def destroy(self, session_id: str, key_ids: Collection[str]) -> None:
        self.published_before.append(len(self._publisher.of(TOPICS.replies)))
        if self.errors:
            raise self.errors.popleft()
        self.destroyed += 1


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("away"), BrokerUnavailable("away"), RuntimeError("reset"), AssertionError(), Unheard("?")],
)
async def test_a_deletion_is_published_once_its_keys_are_destroyed_however_often_that_fails(error: Exception) -> None:
    """L, X: not before, and never as a dead letter."""
    publisher = FakePublisher()
    seals = FailingSeals(publisher, *[error] * 7)
    worker = Worker(publisher=publisher, seals=seals, attempts=2)
    await worker.run(inbound("s1", 0, id="m0", text="Hello"), inbound("s1", 1, id="d", type="session.delete"))
    assert seals.destroyed == 1
    assert seals.published_before == [1] * 8
    assert isinstance(publisher.replies[-1], SessionDeleted)
    assert publisher.seqs == [1, 2]
    assert publisher.of(TOPICS.dlq) == []


async def test_a_store_that_was_replaced_while_keys_are_destroyed_is_repaired_first() -> None:
    """U: the deletion is redelivered after the repair, and published then."""
    publisher = FakePublisher()
    seals = FailingSeals(publisher, StoreReplaced("another"))
    worker = Worker(publisher=publisher, seals=seals, attempts=2)
    deletion = inbound("s1", 1, id="d", type="session.delete")
    await worker.run(inbound("s1", 0, id="m0", text="Hello"))
    with pytest.raises(StoreReplaced):
        await worker.run(deletion)
    assert publisher.seqs == [1]
    await worker.restarted().run(deletion)
    assert publisher.seqs == [1, 2]
    assert publisher.of(TOPICS.dlq) == []
