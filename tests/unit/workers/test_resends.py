"""A message that comes again is not answered again, however many others were answered meanwhile (D, L)."""

import pytest

from schemas.replies import TurnFailed
from schemas.session import EARLIER_IDS_MS, RECENT_IDS
from tests.unit.workers.fakes import TOPICS, FakeRecord, Worker, answer_texts, away, home, inbound
from workers.errors import PermanentError, TransientError
from workers.records import Partition

PLACES = pytest.mark.parametrize("at", [home("s1"), away("s1")], ids=["under the partition", "under the lock"])


async def conversation(worker: Worker, first: int, count: int) -> None:
    """So many turns of one session, from the record at offset `first` on."""
    await worker.run(*(inbound("s1", n, id=f"m{n}", text="Hello") for n in range(first, first + count)))


@PLACES
async def test_a_message_that_comes_again_after_a_hundred_others_is_not_answered_again(at: Partition) -> None:
    """D: also by a process that never saw it, and as often as it comes."""
    worker = Worker()
    await conversation(worker, 0, 101)
    before = await worker.session("s1")
    for offset, process in enumerate([worker, worker.restarted(), worker.restarted(token=3)], start=200):
        await process.run(inbound("s1", offset, at=at, id="m0", text="Hello"))
        assert process.observer.seen["turn:duplicate"] == 1
    assert worker.publisher.contents_of("m0") == {worker.publisher.of(TOPICS.replies)[0].value}
    assert await worker.session("s1") == before
    assert worker.publisher.seqs == list(range(1, 102))
    assert worker.publisher.of(TOPICS.dlq) == []


@pytest.mark.parametrize("others", [RECENT_IDS - 1, RECENT_IDS, RECENT_IDS + 1])
async def test_an_id_is_known_on_both_sides_of_the_session_s_own_list(others: int) -> None:
    """D"""
    worker = Worker()
    await conversation(worker, 0, 1 + others)
    await worker.run(inbound("s1", 100, id="m0", text="Hello"))
    assert worker.publisher.seqs == list(range(1, others + 2))
    assert len(worker.publisher.contents_of("m0")) == 1


async def test_every_id_that_left_the_list_is_known() -> None:
    """D"""
    worker = Worker()
    await conversation(worker, 0, 80)
    await worker.run(*(inbound("s1", 100 + n, id=f"m{n}", text="Hello") for n in range(80)))
    assert len(answer_texts(worker.publisher.replies)) >= 80
    assert worker.publisher.seqs == list(range(1, 81))


@pytest.mark.parametrize(("later_ms", "contents"), [(EARLIER_IDS_MS - 1_000, 1), (EARLIER_IDS_MS, 2)])
async def test_an_id_is_forgotten_a_day_of_the_session_s_time_after_it_left_the_list(
    later_ms: int, contents: int
) -> None:
    """D for a day, and then L: what is kept is bounded."""
    worker = Worker()
    await conversation(worker, 0, 1 + RECENT_IDS)
    worker.clock.ms += later_ms
    await conversation(worker, 100, 1)
    await worker.run(inbound("s1", 200, id="m0", text="Hello"))
    assert len(worker.publisher.contents_of("m0")) == contents


async def test_a_message_that_failed_is_answered_when_it_is_sent_back_after_a_hundred_others() -> None:
    """L: a failure that can be sent back is no answer."""
    worker = Worker()
    worker.generator.errors.extend([TransientError("busy")] * 3)
    await worker.run(inbound("s1", 0, id="failed", text="Hello"))
    await conversation(worker, 1, 100)
    letter = worker.publisher.of(TOPICS.dlq)[0]
    back = FakeRecord(TOPICS.inbound, home("s1").partition, 200, letter.key, letter.value, letter.headers)
    await worker.run(back)
    assert worker.publisher.replies[-1].inbound_id == "failed"
    assert len(answer_texts(worker.publisher.replies)) == 101
    await conversation(worker, 201, 50)
    await worker.run(FakeRecord(TOPICS.inbound, home("s1").partition, 300, letter.key, letter.value, letter.headers))
    assert len(answer_texts(worker.publisher.replies)) == 151, "D: sent back a second time, it was answered"


async def test_a_message_that_was_cancelled_stays_so_after_a_hundred_others() -> None:
    """D: cancelled is an end."""
    worker = Worker()
    worker.cancellations.request("s1", "cancelled")
    await worker.run(inbound("s1", 0, id="cancelled", text="Hello"))
    worker.cancellations.forget("s1", "cancelled")
    await conversation(worker, 1, 100)
    await worker.run(inbound("s1", 200, id="cancelled", text="Hello"))
    assert len(answer_texts(worker.publisher.replies)) == 100


async def test_a_failure_of_an_id_that_was_answered_long_ago_is_no_turn() -> None:
    """D: the second record of it can't be answered, and the first one was."""
    worker = Worker(attempts=1)
    await conversation(worker, 0, 101)
    worker.generator.errors.append(PermanentError("refused_by_policy", "not this"))
    await worker.run(inbound("s1", 200, id="m0", text="Hello"))
    assert not any(isinstance(event, TurnFailed) for event in worker.publisher.replies)
    assert worker.publisher.seqs == list(range(1, 102))


async def test_a_session_that_was_deleted_and_began_anew_answers_the_ids_of_its_earlier_life() -> None:
    """L"""
    worker = Worker()
    await conversation(worker, 0, 40)
    await worker.run(inbound("s1", 100, id="d", type="session.delete"))
    await worker.run(inbound("s1", 101, id="m0", text="Hello"), inbound("s1", 102, id="m1", text="Hello"))
    assert [event.inbound_id for event in worker.publisher.replies][-2:] == ["m0", "m1"]
    assert (await worker.session("s1")).message_count == 2
