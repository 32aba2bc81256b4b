"""What becomes of a turn that fails: waited for, tried again, or a dead letter. Never lost (L)."""

import asyncio
from typing import Any

import pytest

from schemas.headers import header
from schemas.publishing import BrokerUnavailable, RecordTooLarge
from schemas.replies import TurnCompleted, TurnFailed
from schemas.session import SessionData
from store.errors import CorruptSession, LockTimeout, StoreError, StoreUnavailable
from store.locking import LockSettings
from store.memory import MemorySessionStore
from store.protocol import CommitOutcome, Stored
from tests.unit.workers.fakes import TOPICS, FakeRecord, Worker, answer_texts, away, home, inbound, until
from workers.errors import NotOwner, PermanentError, TransientError


async def test_a_transient_error_is_tried_again_until_it_passes() -> None:
    worker = Worker(attempts=3)
    worker.generator.errors.extend([TransientError("busy"), TransientError("busy")])
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    assert len(answer_texts(worker.publisher.replies)) == 1
    assert worker.observer.seen["retried:TransientError"] == 2
    assert worker.publisher.of(TOPICS.dlq) == []


async def test_after_the_last_attempt_the_record_is_a_dead_letter_and_the_customer_is_told() -> None:
    worker = Worker(attempts=3)
    worker.generator.errors.extend([TransientError("the model is overloaded")] * 3)
    record = inbound("s1", 7, id="m1", text="Hello", headers=[("traceparent", b"00-abc")])
    await worker.run(record)
    assert worker.generator.calls == ["m1"] * 3
    (letter,) = worker.publisher.of(TOPICS.dlq)
    assert (letter.key, letter.value) == (record.key, record.value)
    assert letter.headers[: len(record.headers)] == record.headers
    told = {name: header(letter.headers, f"dlq.{name}") for name in ("reason", "error", "attempts", "topic", "offset")}
    assert told == {
        "reason": b"retries_exhausted",
        "error": b"the model is overloaded",
        "attempts": b"3",
        "topic": b"support.inbound.v1",
        "offset": b"7",
    }
    (event,) = worker.publisher.replies
    assert isinstance(event, TurnFailed)
    assert (event.code, event.attempts, event.redrivable) == ("retries_exhausted", 3, True)


async def test_what_the_customer_is_told_shows_nothing_of_our_inside() -> None:
    """X"""
    worker = Worker(attempts=1)
    worker.generator.errors.append(TransientError("password=CANARY at 10.0.0.7"))
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    (event,) = worker.publisher.replies
    assert isinstance(event, TurnFailed)
    assert "CANARY" not in event.error


async def test_a_permanent_error_is_a_dead_letter_at_once() -> None:
    worker = Worker(attempts=5)
    worker.generator.errors.append(PermanentError("refused_by_policy", "not this"))
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    assert worker.generator.calls == ["m1"]
    assert header(worker.publisher.of(TOPICS.dlq)[0].headers, "dlq.reason") == b"refused_by_policy"


async def test_a_programming_error_ends_in_the_dead_letter_topic_too() -> None:
    """P: the lane goes on."""
    worker = Worker(attempts=2)
    worker.generator.errors.extend([ZeroDivisionError(), ZeroDivisionError()])
    await worker.run(inbound("s1", 0, id="m1", text="Hello"), inbound("s1", 1, id="m2", text="Hello"))
    assert worker.observer.seen["dlq:internal_error"] == 1
    assert len(answer_texts(worker.publisher.replies)) == 1


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, b"s1", b"no_value"),
        (b"{", b"s1", b"bad_json"),
        (b'{"type": "x"}', b"s1", b"unknown_type"),
        (b'{"text": ""}', b"s1", b"invalid_field"),
        (b'{"text": "x", "session_id": "s2"}', b"s1", b"key_mismatch"),
    ],
)
async def test_a_record_that_can_never_be_a_turn_is_a_dead_letter_and_its_session_is_told(
    value: bytes | None, key: bytes, reason: bytes
) -> None:
    worker = Worker()
    record = FakeRecord(TOPICS.inbound, home("s1").partition, 0, key, value)
    await worker.run(record, inbound("s1", 1, id="m1", text="The next good one"))
    (letter,) = worker.publisher.of(TOPICS.dlq)
    assert (letter.key, letter.value, header(letter.headers, "dlq.reason")) == (key, value, reason)
    failed, answered = worker.publisher.replies
    assert isinstance(failed, TurnFailed)
    assert failed.code == reason.decode()
    assert isinstance(answered, TurnCompleted)


@pytest.mark.parametrize(("key", "value"), [(None, b"{"), (None, None), (b"\xff", b"{}"), (b"a b", b'{"text": "x"}')])
async def test_a_record_that_names_no_session_is_a_dead_letter_only(key: bytes | None, value: bytes | None) -> None:
    worker = Worker()
    await worker.run(FakeRecord(TOPICS.inbound, 0, 0, key, value))
    (letter,) = worker.publisher.of(TOPICS.dlq)
    assert letter.key == key
    assert letter.key is not None or letter.value is not None
    assert worker.publisher.replies == []


class AwayStore(MemorySessionStore):
    """Raises `errors` on the next loads, then works."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(ttl_seconds=60)
        self.errors = list(errors)

    async def load(self, session_id: str) -> Stored | None:
        if self.errors:
            raise self.errors.pop(0)
        return await super().load(session_id)


async def test_redis_and_kafka_being_away_is_waited_for_and_not_counted() -> None:
    """L: nothing becomes a dead letter because a server was restarted."""
    worker = Worker(AwayStore(*[StoreUnavailable("away")] * 7), attempts=1)
    worker.publisher.fail(TOPICS.replies, *[BrokerUnavailable("away")] * 7)
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    assert worker.generator.calls == ["m1"]
    assert len(worker.publisher.contents_of("m1")) == 1
    assert worker.publisher.of(TOPICS.dlq) == []
    assert worker.observer.seen["retried:StoreUnavailable"] == 7
    assert worker.observer.seen["retried:BrokerUnavailable"] == 7


async def test_attempts_are_counted_across_an_outage() -> None:
    worker = Worker(attempts=2)
    worker.generator.errors.extend([TransientError("a"), BrokerUnavailable("b"), TransientError("c")])
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    assert header(worker.publisher.of(TOPICS.dlq)[0].headers, "dlq.attempts") == b"2"


async def test_a_dead_letter_waits_for_the_broker_and_is_written_once() -> None:
    worker = Worker(attempts=1)
    worker.generator.errors.append(TransientError("busy"))
    worker.publisher.fail(TOPICS.dlq, BrokerUnavailable("away"), BrokerUnavailable("away"))
    worker.publisher.fail(TOPICS.replies, BrokerUnavailable("away"))
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    assert len(worker.publisher.of(TOPICS.dlq)) == 1
    assert worker.publisher.seqs == [1]


async def test_a_record_too_large_for_the_dead_letter_topic_goes_there_without_its_value() -> None:
    """L: the last resort always works, and the customer is told."""
    worker = Worker(attempts=1)
    worker.generator.errors.append(TransientError("busy"))
    worker.publisher.fail(TOPICS.dlq, RecordTooLarge("2 MB"))
    await worker.run(record := inbound("s1", 0, id="m1", text="Hello"))
    [letter] = worker.publisher.of(TOPICS.dlq)
    assert (letter.key, letter.value) == (b"s1", None)
    assert header(letter.headers, "dlq.size") == str(len(record.value or b"")).encode()
    assert [type(event) for event in worker.publisher.replies] == [TurnFailed]


async def test_a_fenced_writer_leaves_the_record_to_the_owner() -> None:
    """O: no retry, no dead letter, not done."""
    worker = Worker(token=1)
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    await worker.restarted(token=2).run(inbound("s1", 1, id="m2", text="Hello"))
    with pytest.raises(NotOwner):
        await worker.run(inbound("s1", 2, id="m3", text="Hello"))
    assert worker.publisher.of(TOPICS.dlq) == []


async def test_a_lock_that_is_never_free_ends_in_the_dead_letter_topic_and_the_customer_is_told_later() -> None:
    store = MemorySessionStore(ttl_seconds=60, lock=LockSettings(retry_attempts=1, lease_seconds=0.005))
    worker = Worker(store, attempts=2)
    async with store.lock("s1"):
        running = asyncio.create_task(worker.run(inbound("s1", 0, at=away("s1"), id="m1", text="Hello")))
        await until(lambda: bool(worker.publisher.of(TOPICS.dlq)))
        assert worker.publisher.replies == []
    await running
    assert header(worker.publisher.of(TOPICS.dlq)[0].headers, "dlq.reason") == b"lock_timeout"
    assert isinstance(worker.publisher.replies[0], TurnFailed)
    assert LockTimeout.__name__ in str(worker.observer.seen)


@pytest.mark.parametrize(
    "error", [CorruptSession("no session"), StoreError("Redis refused a command"), ValueError("unreadable")]
)
async def test_a_session_that_cannot_be_read_holds_up_only_itself(error: Exception) -> None:
    """P: once its dead letter is written, the offset is done, or the partition's commits stand still for good."""
    worker = Worker(AwayStore(*[error] * 50), attempts=2)
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    assert len(worker.publisher.of(TOPICS.dlq)) == 1


async def test_an_error_text_is_cut_where_a_character_ends() -> None:
    """A header that is no UTF-8 breaks every tool that shows it."""
    worker = Worker(attempts=1)
    worker.generator.errors.append(TransientError("x" + "é" * 2_000))
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    error = header(worker.publisher.of(TOPICS.dlq)[0].headers, "dlq.error")
    assert error is not None
    error.decode()


async def test_one_session_waits_while_others_go_on() -> None:
    """P"""
    worker = Worker(AwayStore(), attempts=1)
    gate = worker.generator.gate = asyncio.Event()
    slow = asyncio.create_task(worker.run(inbound("slow", 0, id="m1", text="Hello")))
    await until(lambda: bool(worker.generator.calls))
    worker.generator.gate = None
    await worker.run(inbound("quick", 0, id="m1", text="Hello"))
    assert [event.session_id for event in worker.publisher.replies] == ["quick"]
    gate.set()
    await slow
    session: SessionData = await worker.session("slow")
    assert session.message_count == 1


async def test_without_locks_what_needs_one_goes_to_the_dead_letter_topic_and_nothing_runs_unguarded() -> None:
    """O: the record is neither answered nor lost; the customer can't be told, for that would be a turn, too."""
    worker = Worker(MemorySessionStore(ttl_seconds=60, lock=None))
    await worker.run(inbound("s1", 0, at=away("s1"), id="m1", text="Hello"))
    await worker.run(inbound("s1", 0, id="m2", text="In its home partition"))
    assert worker.observer.seen["dlq:locking_disabled"] == 1
    assert worker.generator.calls == ["m2"]
    assert [event.inbound_id for event in worker.publisher.replies] == ["m2"]


class AwayForTheFirstCommits(MemorySessionStore):
    """Refuses as many commits as it is told to."""

    def __init__(self, times: int) -> None:
        super().__init__(ttl_seconds=60)
        self.times = times

    async def commit_turn(self, session: SessionData, **arguments: Any) -> CommitOutcome:
        if self.times:
            self.times -= 1
            raise StoreUnavailable("away")
        return await super().commit_turn(session, **arguments)


async def test_a_dead_letter_is_written_once_however_often_telling_the_customer_fails() -> None:
    worker = Worker(AwayForTheFirstCommits(3), attempts=1)
    worker.generator.errors.append(TransientError("busy"))
    await worker.run(inbound("s1", 0, id="m1", text="Hello"))
    assert len(worker.publisher.of(TOPICS.dlq)) == 1
    assert [type(event) for event in worker.publisher.replies] == [TurnFailed]
