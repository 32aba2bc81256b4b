"""One turn: decided, committed, published; and what duplicates, other writers and cancels make of it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from schemas.partition import home_partition
from schemas.publishing import BrokerUnavailable, Position, Record
from schemas.replies import SessionDeleted, SessionUpdated, TurnCompleted, TurnFailed
from schemas.session import SessionData
from store.memory import MemorySessionStore
from store.protocol import CommitOutcome
from tests.unit.workers.fakes import (
    PARTITIONS,
    TOPICS,
    FakePublisher,
    Killed,
    Worker,
    answer_texts,
    away,
    home,
    inbound,
    until,
)
from workers.errors import NotOwner, PermanentError, StoreForgot
from workers.generation.protocol import Answer
from workers.records import Partition


async def test_a_message_becomes_one_turn_in_store_and_topic() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello", user_id="ann"))
    (event,) = worker.publisher.replies
    assert isinstance(event, TurnCompleted)
    assert event.reply is not None
    assert (event.seq, event.inbound_id, event.reply.text) == (1, "m1", "Answer 1 to Hello")
    assert (event.source and event.source.offset, event.actor) == (0, "agent")
    session = await worker.session("s1")
    assert (session.seq, session.message_count, session.user_id) == (1, 1, "ann")


async def test_a_reply_goes_to_the_home_partition_with_exactly_the_stored_bytes() -> None:
    """D: what is published is what is stored."""
    worker = Worker()
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await worker.turn(inbound("s1", 0, id="m1", text="Hello", headers=[("traceparent", trace)]))
    (record,) = worker.publisher.of(TOPICS.replies)
    assert (record.key, record.partition) == (b"s1", home("s1").partition)
    assert record.value == await worker.store.newest_event("s1")
    assert dict(record.headers)["traceparent"] == trace
    assert dict(record.headers)["ce_type"] == b"supportstream.turn.completed.v1"


async def test_the_turns_of_a_session_have_no_gap_in_seq_and_see_the_state_before_them() -> None:
    """O, U"""
    worker = Worker()
    for n in range(5):
        await worker.turn(inbound("s1", n, id=f"m{n}", text="x"))
    assert [event.seq for event in worker.publisher.replies] == [1, 2, 3, 4, 5]
    assert [session.seq if session else 0 for session in worker.generator.sessions] == [0, 1, 2, 3, 4]
    assert (await worker.session("s1")).message_count == 5


async def test_a_duplicate_of_the_newest_turn_is_republished_and_not_generated_again() -> None:
    """D"""
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.turn(inbound("s1", 1, id="m1", text="Hello"))
    assert worker.generator.calls == ["m1"]
    assert len(worker.publisher.contents_of("m1")) == 1
    assert worker.observer.seen["turn:duplicate"] == 1


async def test_a_duplicate_of_an_older_turn_is_only_found_done() -> None:
    """D"""
    worker = Worker()
    for offset, inbound_id in enumerate(["m1", "m2", "m1"]):
        await worker.turn(inbound("s1", offset, id=inbound_id, text="Hello"))
    assert [event.inbound_id for event in worker.publisher.replies] == ["m1", "m2"]
    assert worker.generator.calls == ["m1", "m2"]


async def test_the_same_id_in_two_sessions_is_two_messages() -> None:
    """X: an idempotency id means something in its session only."""
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="one"))
    await worker.turn(inbound("s2", 0, id="m1", text="two"))
    one, two = worker.publisher.replies
    assert (one.session_id, two.session_id) == ("s1", "s2")
    assert one.id != two.id


async def test_canaries_of_one_session_never_reach_another() -> None:
    """X"""
    worker = Worker()
    sessions = [f"session-{n}" for n in range(8)]
    for turn in range(4):
        for session_id in sessions:
            record = inbound(
                session_id, turn, id=f"m{turn}", text=f"CANARY-{session_id}.", metadata={"own": session_id}
            )
            await worker.turn(record)
    for published in worker.publisher.of(TOPICS.replies):
        own = (published.key or b"").decode()
        value = (published.value or b"").decode()
        assert f"CANARY-{own}." in value
        assert not any(f"CANARY-{other}." in value for other in sessions if other != own)
    for session_id in sessions:
        state = (await worker.session(session_id)).to_json().decode()
        assert not any(other in state for other in sessions if other != session_id)


async def test_a_stale_write_reloads_and_decides_anew() -> None:
    """U: no update is lost, and the reply is made for the state that it is applied to."""
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    other = worker.restarted()

    async def somebody_else_writes() -> None:
        await other.turn(inbound("s1", 5, at=away("s1"), id="m2", text="From elsewhere"))

    worker.generator.meanwhile = somebody_else_writes
    await worker.turn(inbound("s1", 1, id="m3", text="Mine"))
    assert worker.observer.seen["stale"] == 1
    assert [event.inbound_id for event in worker.publisher.replies if event.seq == 3] == ["m3"]
    assert worker.generator.sessions[-1] is not None
    assert worker.generator.sessions[-1].recent_ids == ("m1", "m2")
    assert (await worker.session("s1")).recent_ids == ("m1", "m2", "m3")


async def test_a_message_that_somebody_else_answered_meanwhile_is_not_answered_twice() -> None:
    """D: one id over two partitions at once; the first commit wins, and both publish its bytes."""
    worker = Worker()
    other = worker.restarted()

    async def somebody_else_answers() -> None:
        await other.turn(inbound("s1", 5, at=away("s1"), id="m1", text="Hello"))

    worker.generator.meanwhile = somebody_else_answers
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    assert len(worker.publisher.contents_of("m1")) == 1
    assert (await worker.session("s1")).seq == 1


async def test_a_later_owner_fences_an_earlier_one() -> None:
    """O: a paused process that wakes up after its partition went to another one writes nothing."""
    worker = Worker(token=1)
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.restarted(token=2).turn(inbound("s1", 1, id="m2", text="Hello"))
    before = await worker.session("s1")
    with pytest.raises(NotOwner) as raised:
        await worker.turn(inbound("s1", 2, id="m3", text="Hello"))
    assert (raised.value.session_id, raised.value.token) == ("s1", 2)
    assert await worker.session("s1") == before
    assert worker.publisher.contents_of("m3") == set()
    assert worker.l1.get("s1") is None


@pytest.mark.parametrize(
    ("at", "keyed", "reason"),
    [
        (away("s1"), True, "foreign_partition"),
        (away("s1"), False, "null_key"),
        (Partition("other.topic", home("s1").partition), True, "secondary_topic"),
    ],
)
async def test_where_the_partition_gives_no_ownership_the_turn_runs_under_the_lock(
    at: Partition, keyed: bool, reason: str
) -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, at=at, keyed=keyed, id="m1", text="Hello"))
    assert worker.observer.seen[f"lock:{reason}"] == 1
    stored = await worker.store.load("s1")
    assert stored is not None
    assert stored.writer == "lock"
    assert worker.l1.get("s1") is None


async def test_a_record_in_its_home_partition_takes_no_lock() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    assert not any(name.startswith("lock:") for name in worker.observer.seen)


async def test_ordering_lock_runs_every_turn_under_the_lock() -> None:
    worker = Worker(lock_everything=True)
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    assert worker.observer.seen["lock:ordering_lock"] == 1


@pytest.mark.parametrize("dead", ["owner", "lock holder"])
async def test_the_newest_reply_of_a_dead_writer_is_published_before_the_own_turn(dead: str) -> None:
    """R: the reply topic has every seq in order, whoever wrote it."""
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    dies = worker.restarted()
    # A lock holder publishes the newest reply first, in case its writer could not.
    before_its_own = [] if dead == "owner" else [None]
    worker.publisher.fail(TOPICS.replies, *before_its_own, Killed("gone"))
    first, second = (home("s1"), away("s1")) if dead == "owner" else (away("s1"), home("s1"))
    with pytest.raises(Killed):
        await dies.turn(inbound("s1", 1, at=first, id="m2", text="Hello"))
    await dies.restarted().turn(inbound("s1", 9, at=second, id="m3", text="Hello"))
    assert worker.publisher.seqs == [1, 2, 3]
    assert len(worker.publisher.contents_of("m2")) == 1


async def test_an_owner_with_a_cached_session_publishes_what_a_dead_lock_holder_did_not() -> None:
    """R: the same, found by a stale write."""
    owner = Worker()
    await owner.turn(inbound("s1", 0, id="m1", text="Hello"))
    holder = owner.restarted()
    owner.publisher.fail(TOPICS.replies, None, Killed("gone"))
    with pytest.raises(Killed):
        await holder.turn(inbound("s1", 4, at=away("s1"), id="m2", text="Hello"))
    await owner.turn(inbound("s1", 1, id="m3", text="Hello"))
    assert owner.publisher.seqs == [1, 2, 3]


class HoldingPublisher(FakePublisher):
    """Takes no reply while it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.holds = False

    async def publish(self, record: Record) -> Position:
        if self.holds and record.topic == TOPICS.replies:
            await asyncio.Event().wait()
        return await super().publish(record)


async def test_a_session_that_moved_home_may_lack_its_newest_reply_in_the_topic() -> None:
    """R: partitions were added, and the owner of the old home died between store and topic."""
    old_count = next(n for n in range(1, PARTITIONS) if home_partition("s1", n) != home("s1").partition)
    old_home = Partition(TOPICS.inbound, home_partition("s1", old_count))
    publisher = HoldingPublisher()
    dies = Worker(publisher=publisher)
    dies.turns.partitions = old_count
    await dies.turn(inbound("s1", 0, at=old_home, id="m1", text="Hello"))
    publisher.holds = True
    dying = asyncio.create_task(dies.turn(inbound("s1", 1, at=old_home, id="m2", text="Hello")))

    def is_stored() -> bool:
        session = dies.l1.get("s1")
        return session is not None and session.seq == 2

    await until(is_stored)
    dying.cancel()
    await asyncio.wait([dying])
    publisher.holds = False
    owner = dies.restarted()
    await owner.turn(inbound("s1", 0, id="m3", text="Hello"))
    assert [event.inbound_id for event in publisher.replies] == ["m1", "m2", "m3"]
    await owner.restarted().turn(inbound("s1", 1, id="m4", text="Hello"))
    assert [event.inbound_id for event in publisher.replies] == ["m1", "m2", "m3", "m4"], "it is in no doubt any more"


async def test_a_store_that_stands_behind_what_was_written_has_forgotten_and_nothing_is_written() -> None:
    """U: the worker knows a version that the store lost."""
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    before = await worker.session("s1")
    ahead = replace(before, seq=before.seq + 2, version=before.version + 2)
    worker.l1.put(ahead, home("s1"), 3_600.0)
    with pytest.raises(StoreForgot):
        await worker.turn(inbound("s1", 3, id="m4", text="Hello"))
    assert await worker.session("s1") == before
    assert publishes(worker) == ["m1"]
    assert worker.l1.get("s1") is None, "the repaired store is asked"


async def test_a_store_without_a_session_that_should_live_has_forgotten_it() -> None:
    """U"""
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.store.close()
    with pytest.raises(StoreForgot):
        await worker.turn(inbound("s1", 1, id="m2", text="Hello"))
    assert publishes(worker) == ["m1"]


async def test_a_session_that_expired_is_not_forgotten_and_begins_anew() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.store.close()
    worker.clock.ms += 3_600_001
    await worker.turn(inbound("s1", 1, id="m2", text="Hello"))
    first, second = worker.publisher.replies
    assert (second.seq, second.version) == (1, 1)
    assert second.epoch > first.epoch


async def test_a_session_that_another_writer_took_further_is_not_forgotten() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.restarted(token=1).turn(inbound("s1", 5, at=away("s1"), id="m2", text="Hello"))
    await worker.turn(inbound("s1", 1, id="m3", text="Hello"))
    assert (await worker.session("s1")).seq == 3


def publishes(worker: Worker) -> list[str]:
    return [event.inbound_id for event in worker.publisher.replies]


async def test_a_cancel_that_came_first_spares_the_answer() -> None:
    worker = Worker()
    worker.cancellations.request("s1", "m1")
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.turn(inbound("s1", 1, id="c1", type="cancel", target="m1"))
    (event,) = worker.publisher.replies
    assert isinstance(event, TurnFailed)
    assert (event.code, event.redrivable) == ("cancelled", False)
    assert worker.generator.calls == []


async def test_a_cancel_during_the_answer_stops_it() -> None:
    worker = Worker()

    async def cancelled() -> None:
        worker.cancellations.request("s1", "m1")

    worker.generator.meanwhile = cancelled
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    (event,) = worker.publisher.replies
    assert isinstance(event, TurnFailed)
    assert event.code == "cancelled"
    assert (await worker.session("s1")).message_count == 0


async def test_a_cancel_after_the_answer_has_no_effect() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.turn(inbound("s1", 1, id="c1", type="cancel", target="m1"))
    assert len(worker.publisher.replies) == 1
    assert worker.observer.seen["turn:ignored"] == 1


async def test_a_cancelled_message_is_not_answered_when_it_comes_again() -> None:
    """L, D: cancelled is an end."""
    worker = Worker()
    worker.cancellations.request("s1", "m1")
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.turn(inbound("s1", 1, id="c1", type="cancel", target="m1"))
    await worker.turn(inbound("s1", 2, id="m1", text="Hello"))
    assert answer_texts(worker.publisher.replies) == []


async def test_a_session_is_updated_deleted_and_born_again() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="u1", type="session.update", changes={"metadata": {"a": 1}}))
    await worker.turn(inbound("s1", 1, id="d1", type="session.delete"))
    assert await worker.store.get("s1") is None
    await worker.turn(inbound("s1", 2, id="m1", text="Hello again"))
    update, deletion, answer = worker.publisher.replies
    assert isinstance(update, SessionUpdated)
    assert isinstance(deletion, SessionDeleted)
    assert (answer.seq, answer.version) == (1, 3)
    assert answer.epoch > deletion.epoch
    assert (await worker.session("s1")).metadata == {}


async def test_feedback_is_noted_for_a_reply_that_exists_only() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    await worker.turn(inbound("s1", 1, id="f1", type="feedback", seq=1, score=1))
    await worker.turn(inbound("s1", 2, id="f2", type="feedback", seq=9, score=1))
    feedback = worker.publisher.replies[-1]
    assert isinstance(feedback, SessionUpdated)
    assert feedback.feedback == {"seq": 1, "score": 1}
    assert worker.observer.seen["turn:ignored"] == 1


async def test_an_operator_speaks_instead_of_the_assistant() -> None:
    worker = Worker()
    await worker.turn(inbound("s1", 0, id="o1", type="operator.message", text="I am here.", operator="ann"))
    (event,) = worker.publisher.replies
    assert isinstance(event, TurnCompleted)
    assert (event.actor, event.message) == ("operator", None)
    assert answer_texts([event]) == ["I am here."]


async def test_of_two_claims_the_first_counts() -> None:
    """X: the partition's order decides who may open the session."""
    worker = Worker()
    for offset in (0, 1):
        changes = {"claimed": True}
        await worker.turn(inbound("s1", offset, id=f"claim-{offset}", type="session.update", changes=changes))
    first, second = worker.publisher.replies
    assert isinstance(first, SessionUpdated)
    assert isinstance(second, SessionUpdated)
    assert (first.changes.claimed, second.changes.claimed) == (True, None)


async def test_a_session_is_escalated_once() -> None:
    worker = Worker()
    worker.generator.answer = lambda question, n: Answer("A person will help.", escalates=True)
    await worker.turn(inbound("s1", 0, id="m1", text="A person, please"))
    await worker.turn(inbound("s1", 1, id="m2", text="A person, please!"))
    first, second = worker.publisher.replies
    assert isinstance(first, TurnCompleted)
    assert isinstance(second, TurnCompleted)
    assert first.changes is not None
    assert first.changes.escalated
    assert second.changes is None


async def test_a_reply_that_no_record_can_hold_is_a_permanent_failure_and_not_committed() -> None:
    worker = Worker()
    worker.generator.answer = lambda question, n: Answer("x" * 1_100_000)
    with pytest.raises(PermanentError) as raised:
        await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    assert raised.value.reason == "reply_too_large"
    assert await worker.store.get("s1") is None


async def test_deltas_come_before_their_reply_and_are_the_answer_in_order() -> None:
    worker = Worker()
    worker.generator.pieces = ["Of ", "course, ", "here."]
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    assert [record.topic for record in worker.publisher.records][-1] == TOPICS.replies
    deltas = worker.publisher.of(TOPICS.deltas)
    assert all((record.key, record.partition) == (b"s1", home("s1").partition) for record in deltas)
    assert b"".join(record.value or b"" for record in deltas).count(b'"session_id":"s1"') == len(deltas)


async def test_a_delta_that_cannot_be_published_does_not_keep_the_reply() -> None:
    """P"""
    worker = Worker()
    worker.generator.pieces = ["Of ", "course."]
    worker.publisher.fail(TOPICS.deltas, BrokerUnavailable("busy"), BrokerUnavailable("busy"))
    await worker.turn(inbound("s1", 0, id="m1", text="Hello"))
    assert len(worker.publisher.replies) == 1


class TwiceInRedis(MemorySessionStore):
    """Loses the response of every commit; the client's retry runs it again."""

    async def commit_turn(self, session: SessionData, **arguments: Any) -> CommitOutcome:
        for _ in range(2):
            outcome = await super().commit_turn(session, **arguments)
        return outcome


async def test_a_commit_that_ran_twice_is_one_turn() -> None:
    """D: the store answers ALREADY, and what it has is published."""
    worker = Worker(TwiceInRedis(ttl_seconds=60))
    for n in range(3):
        await worker.turn(inbound("s1", n, id=f"m{n}", text="Hello"))
    assert worker.publisher.seqs == [1, 2, 3]
    assert worker.generator.calls == ["m0", "m1", "m2"]
    assert (await worker.session("s1")).message_count == 3
