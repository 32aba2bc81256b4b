"""A crash between any two steps of the turn is repaired by redelivery (D, L)."""

from typing import Any

import pytest

from schemas.replies import SessionDeleted, TurnFailed
from schemas.session import SessionData
from store.errors import StoreUnavailable
from store.memory import MemorySessionStore
from store.protocol import CommitOutcome
from tests.unit.workers.fakes import TOPICS, FakeRecord, Killed, Worker, answer_texts, away, home, inbound
from workers.errors import TransientError
from workers.records import Partition
from workers.turn import Failure

PLACES = pytest.mark.parametrize("at", [home("s1"), away("s1")], ids=["under the partition", "under the lock"])


class CrashingStore(MemorySessionStore):
    """Dies once, before or after a commit took place."""

    def __init__(self) -> None:
        super().__init__(ttl_seconds=3_600)
        self.die_before = self.die_after = False

    async def commit_turn(self, session: SessionData, **arguments: Any) -> CommitOutcome:
        if self.die_before:
            self.die_before = False
            raise StoreUnavailable("before")
        outcome = await super().commit_turn(session, **arguments)
        if self.die_after:
            self.die_after = False
            raise StoreUnavailable("after")
        return outcome


async def conversation(at: Partition) -> tuple[Worker, CrashingStore]:
    """A session with one turn behind it."""
    store = CrashingStore()
    worker = Worker(store)
    await worker.turn(inbound("s1", 0, at=at, id="m0", text="Earlier"))
    return worker, store


async def answered_once(worker: Worker, crashed: FakeRecord) -> None:
    """Redelivers to a fresh process, then checks that everything looks as if nothing had happened."""
    fresh = worker.restarted()
    await fresh.run(crashed)
    await fresh.run(inbound("s1", 2, at=Partition(crashed.topic, crashed.partition), id="m2", text="Later"))
    assert worker.publisher.seqs == [1, 2, 3]
    for inbound_id in ("m0", "m1", "m2"):
        assert len(worker.publisher.contents_of(inbound_id)) == 1
    assert (await worker.session("s1")).recent_ids == ("m0", "m1", "m2")
    assert worker.publisher.of(TOPICS.dlq) == []


@PLACES
async def test_a_crash_before_the_commit(at: Partition) -> None:
    worker, store = await conversation(at)
    record = inbound("s1", 1, at=at, id="m1", text="Hello")
    store.die_before = True
    with pytest.raises(StoreUnavailable):
        await worker.turn(record)
    await answered_once(worker, record)


@PLACES
async def test_a_crash_when_the_response_of_the_commit_is_lost(at: Partition) -> None:
    worker, store = await conversation(at)
    record = inbound("s1", 1, at=at, id="m1", text="Hello")
    store.die_after = True
    with pytest.raises(StoreUnavailable):
        await worker.turn(record)
    await answered_once(worker, record)
    assert worker.generator.calls.count("m1") == 1


@PLACES
async def test_a_crash_between_commit_and_publish(at: Partition) -> None:
    worker, _ = await conversation(at)
    record = inbound("s1", 1, at=at, id="m1", text="Hello")
    worker.publisher.fail(TOPICS.replies, *([] if at == home("s1") else [None]), Killed("gone"))
    with pytest.raises(Killed):
        await worker.turn(record)
    assert worker.publisher.contents_of("m1") == set()
    await answered_once(worker, record)


@PLACES
async def test_a_crash_when_the_acknowledgement_of_the_reply_is_lost(at: Partition) -> None:
    worker, _ = await conversation(at)
    record = inbound("s1", 1, at=at, id="m1", text="Hello")
    worker.publisher.lose_acknowledgement(TOPICS.replies, *([] if at == home("s1") else [None]), Killed("gone"))
    with pytest.raises(Killed):
        await worker.turn(record)
    await answered_once(worker, record)


@PLACES
async def test_a_crash_after_the_publish_and_before_the_offset_is_committed(at: Partition) -> None:
    worker, _ = await conversation(at)
    record = inbound("s1", 1, at=at, id="m1", text="Hello")
    await worker.turn(record)
    await answered_once(worker, record)


@PLACES
async def test_everything_is_redelivered_at_once(at: Partition) -> None:
    """D: the group's offsets were reset."""
    worker, _ = await conversation(at)
    records = [inbound("s1", n, at=at, id=f"m{n}", text="Hello") for n in range(6)]
    await worker.run(*records[1:])
    fresh = worker.restarted()
    await fresh.run(*records)
    assert fresh.generator.calls == []
    assert worker.publisher.seqs == [1, 2, 3, 4, 5, 6]
    assert all(len(worker.publisher.contents_of(f"m{n}")) == 1 for n in range(6))


async def test_a_failure_that_was_told_but_not_marked_done_is_told_once() -> None:
    worker, _ = await conversation(home("s1"))
    record = inbound("s1", 1, id="m1", text="Hello")
    await worker.turns.run(worker.take(record), failure=Failure("retries_exhausted", "Sorry.", 3))
    fresh = worker.restarted()
    await fresh.run(record)
    assert fresh.generator.calls == []
    assert worker.publisher.seqs == [1, 2]
    assert len(worker.publisher.contents_of("m1")) == 1


@PLACES
async def test_a_deletion_that_was_committed_but_not_published_is_published_after_a_crash(at: Partition) -> None:
    """L, R: otherwise whoever asked waits forever, and a rebuild brings the deleted session back."""
    worker, _ = await conversation(at)
    record = inbound("s1", 1, at=at, id="d1", type="session.delete")
    worker.publisher.fail(TOPICS.replies, *([] if at == home("s1") else [None]), Killed("gone"))
    with pytest.raises(Killed):
        await worker.turn(record)
    await worker.restarted().run(record)
    assert any(isinstance(event, SessionDeleted) for event in worker.publisher.replies)


async def test_a_redriven_record_is_answered() -> None:
    """L: the id of a failed turn is not an answered one."""
    worker, _ = await conversation(home("s1"))
    worker.generator.errors.extend([TransientError("busy")] * 3)
    await worker.run(inbound("s1", 1, id="m1", text="Hello"))
    letter = worker.publisher.of(TOPICS.dlq)[0]
    await worker.run(FakeRecord(TOPICS.inbound, home("s1").partition, 2, letter.key, letter.value, letter.headers))
    assert isinstance(worker.publisher.replies[1], TurnFailed)
    assert answer_texts(worker.publisher.replies)[-1].endswith("to Hello")
    assert worker.publisher.seqs == [1, 2, 3]


async def test_a_redriven_record_is_answered_by_an_owner_that_did_not_see_the_failure() -> None:
    """L: it failed under the lock; the owner's cached session is older, and its write must not be taken for the
    failure that is stored under the same event id."""
    owner, _ = await conversation(home("s1"))
    elsewhere = owner.restarted()
    elsewhere.generator.errors.extend([TransientError("busy")] * 3)
    await elsewhere.run(inbound("s1", 7, at=away("s1"), id="m1", text="Hello"))
    await owner.run(inbound("s1", 1, id="m1", text="Hello"))
    assert (await owner.session("s1")).recent_ids == ("m0", "m1")
    assert answer_texts(owner.publisher.replies)[-1].endswith("to Hello")


async def test_what_was_applied_before_a_deletion_is_not_answered_again_after_it() -> None:
    """D: the record of a second topic, redelivered after the session was deleted and born again."""
    worker, _ = await conversation(home("s1"))
    elsewhere = inbound("s1", 7, at=away("s1"), id="m1", text="Hello")
    await worker.run(elsewhere)
    await worker.run(inbound("s1", 1, id="d1", type="session.delete"))
    await worker.run(inbound("s1", 2, id="m2", text="Hello again"))
    await worker.restarted().run(elsewhere)
    assert len(worker.publisher.contents_of("m1")) == 1
