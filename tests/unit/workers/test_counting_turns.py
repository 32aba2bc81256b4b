"""Counters in turns: one that goes too far is refused and recorded, and its session goes on (L, P)."""

from dataclasses import replace

import pytest

from schemas.fold import MESSAGE_COUNT
from schemas.headers import header
from schemas.inbound import MAX_COUNTER
from schemas.replies import SessionUpdated, TurnCompleted, TurnFailed
from schemas.session import SessionData
from store.protocol import Applied, Fence
from tests.unit.workers.fakes import TOPICS, FakeRecord, Worker, inbound


def counting(offset: int, **counters: int) -> FakeRecord:
    return inbound("s1", offset, id=f"u{offset}", type="session.update", changes={"counters": counters})


def reasons(worker: Worker) -> list[bytes | None]:
    return [header(letter.headers, "dlq.reason") for letter in worker.publisher.of(TOPICS.dlq)]


async def test_a_step_beyond_the_limit_is_a_dead_letter_and_the_session_is_told() -> None:
    worker = Worker()
    await worker.run(counting(0, n=MAX_COUNTER + 1), inbound("s1", 1, id="m1", text="Hello"))
    assert reasons(worker) == [b"invalid_field"]
    failure, answer = worker.publisher.replies
    assert isinstance(failure, TurnFailed)
    assert isinstance(answer, TurnCompleted)
    assert (await worker.session("s1")).metadata == {}


@pytest.mark.parametrize("name", ["n", MESSAGE_COUNT])
async def test_a_sum_beyond_the_limit_is_refused_and_nothing_is_counted(name: str) -> None:
    worker = Worker()
    await worker.run(counting(0, **{name: MAX_COUNTER}), counting(1, **{name: 1}), counting(2, **{name: -1}))
    assert reasons(worker) == [b"counter_out_of_range"]
    first, failure, last = worker.publisher.replies
    assert isinstance(first, SessionUpdated)
    assert isinstance(failure, TurnFailed)
    assert failure.code == "counter_out_of_range"
    assert isinstance(last, SessionUpdated)
    session = await worker.session("s1")
    assert (session.message_count if name == MESSAGE_COUNT else session.metadata[name]) == MAX_COUNTER - 1


async def store(worker: Worker, session: SessionData) -> None:
    """Puts it in the place of the version before, as an earlier version of this program left it."""
    outcome = await worker.store.commit_turn(
        session,
        expected_version=session.version - 1,
        event_id="old",
        fence=Fence("partition", 1),
        reply=worker.publisher.records[0].value or b"",
    )
    assert outcome == Applied()


@pytest.mark.parametrize("count", [MAX_COUNTER, 2**64 - 1])
async def test_a_session_with_a_count_of_before_still_takes_turns(count: int) -> None:
    """L: its state could not be written as JSON, if it counted on."""
    worker = Worker()
    await worker.run(inbound("s1", 0, id="m0", text="Hello"))
    before = await worker.session("s1")
    old = replace(before, seq=2, version=2, message_count=count)
    await worker.store.commit_turn(
        old,
        expected_version=1,
        event_id="old",
        fence=Fence("partition", 1),
        reply=worker.publisher.records[0].value or b"",
    )
    fresh = worker.restarted()
    await fresh.run(inbound("s1", 5, id="m1", text="Hello"), inbound("s1", 6, id="m2", text="Hello"))
    assert worker.publisher.of(TOPICS.dlq) == []
    session = await worker.session("s1")
    assert (session.message_count, session.seq) == (count, 4)


async def test_a_count_of_before_can_be_counted_down() -> None:
    worker = Worker()
    await worker.run(counting(0, n=MAX_COUNTER))
    before = await worker.session("s1")
    await store(worker, replace(before, seq=2, version=2, metadata={"n": MAX_COUNTER + 5}))
    fresh = worker.restarted()
    await fresh.run(counting(5, n=-5))
    assert (await worker.session("s1")).metadata == {"n": MAX_COUNTER}
