"""Turns of sealed records, and of what was erased: nothing accepted ends without an outcome (L)."""

import asyncio
from typing import Any

import orjson
import pytest

from schemas.publishing import Position, Record
from schemas.replies import SessionDeleted, TurnCompleted, TurnFailed, decode_reply
from schemas.sealed import is_sealed, parse_sealed
from store.direct import DirectSessions
from store.errors import KeyDestroyed, StoreUnavailable
from store.sealing import SealingPublisher
from tests.contract.keys import System
from tests.unit.workers.fakes import PARTITIONS, TOPICS, FakePublisher, FakeRecord, Killed, Worker, home, inbound


def deletion_at(offset: int) -> FakeRecord:
    return inbound("s1", offset, id="d", type="session.delete")


@pytest.fixture
def system() -> System:
    return System()


async def sealed(system: System, session_id: str, offset: int, id: str, **body: Any) -> FakeRecord:
    """As an ingress publishes it: sealed, its id in a header."""
    plain = inbound(session_id, offset, id=id, text=f"Text of {id}", **body)
    value = await system.process().seal(session_id, plain.value or b"")
    return FakeRecord(plain.topic, plain.partition, offset, plain.key, value, [("ce_id", id.encode())])


async def replies(worker: Worker, system: System) -> list[object]:
    """What can be read of the reply topic; None: erased."""
    values = await system.process().opened([record.value for record in worker.publisher.of(TOPICS.replies)])
    return [None if is_sealed(value) else decode_reply(value or b"") for value in values]


async def test_a_sealed_message_is_answered_and_the_answer_is_sealed(system: System) -> None:
    worker = Worker(seals=system.process())
    worker.generator.pieces = ["An ", "answer"]
    await worker.run(await sealed(system, "s1", 0, "m0"))
    assert all(is_sealed(record.value) for record in worker.publisher.records)
    assert {record.topic for record in worker.publisher.records} == {TOPICS.replies, TOPICS.deltas}
    [reply] = await replies(worker, system)
    assert isinstance(reply, TurnCompleted)
    assert (reply.inbound_id, reply.message and reply.message.text) == ("m0", "Text of m0")


async def test_plain_text_of_other_systems_is_answered_as_well(system: System) -> None:
    worker = Worker(seals=system.process())
    await worker.run(inbound("s1", 0, id="m0", text="Hello?"), await sealed(system, "s1", 1, "m1"))
    assert (await worker.session("s1")).recent_ids == ("m0", "m1")
    assert all(is_sealed(record.value) for record in worker.publisher.of(TOPICS.replies))


async def test_a_message_whose_key_cannot_be_had_waits_for_it(system: System) -> None:
    record = await sealed(system, "s1", 0, "m0")
    worker = Worker(seals=system.process())
    find = system.index.find
    away = 2

    async def back_at_last(names: object) -> object:
        nonlocal away
        system.index.away = away > 0
        away -= 1
        return await find(names)  # type: ignore[arg-type]

    system.index.find = back_at_last  # type: ignore[method-assign, assignment]
    await worker.run(record)
    assert worker.observer.seen["retried:StoreUnavailable"] == 2
    assert worker.observer.seen["turn:turn.completed"] == 1


async def test_a_dead_letter_is_sealed_or_stays_so(system: System) -> None:
    worker = Worker(seals=system.process())
    too_long = await sealed(system, "s1", 0, "m0", attachments=[{"name": "", "url": "https://x"}])
    await worker.run(too_long, inbound("s1", 1, id="m1"))
    letters = worker.publisher.of(TOPICS.dlq)
    assert letters[0].value == too_long.value
    assert is_sealed(letters[1].value)
    assert orjson.loads(await system.process().open(letters[1].value or b""))["id"] == "m1"
    failed = [reply for reply in await replies(worker, system) if isinstance(reply, TurnFailed)]
    assert [reply.code for reply in failed] == ["invalid_field", "invalid_field"]


async def test_a_sealed_record_that_was_changed_is_a_dead_letter(system: System) -> None:
    worker = Worker(seals=system.process())
    good = await sealed(system, "s1", 0, "m0")
    bad = FakeRecord(good.topic, good.partition, 0, good.key, (good.value or b"")[:-1] + b"!", good.headers)
    cut = FakeRecord(good.topic, good.partition, 1, good.key, (good.value or b"")[:20], good.headers)
    elsewhere = FakeRecord(good.topic, good.partition, 2, b"s2", good.value, good.headers)
    await worker.run(bad, cut, elsewhere)
    reasons = [dict(record.headers)["dlq.reason"] for record in worker.publisher.of(TOPICS.dlq)]
    assert reasons == [b"unreadable", b"unreadable", b"key_mismatch"]


async def test_a_deletion_destroys_the_keys_before_anybody_hears_of_it(system: System) -> None:
    class Watched(FakePublisher):
        async def publish(self, record: Record) -> Position:
            if record.value and b"session.deleted" in record.value:
                assert system.readable == 0
            return await super().publish(record)

    worker = Worker(publisher=Watched(), seals=system.process())
    await worker.run(await sealed(system, "s1", 0, "m0"), deletion_at(1))
    erased, deleted = await replies(worker, system)
    assert erased is None
    assert isinstance(deleted, SessionDeleted)
    assert len(deleted.keys) == 1
    source = f"{TOPICS.inbound}:{home('s1').partition}"
    assert deleted.applied == {source: 1}
    stored = await worker.store.load("s1")
    assert stored is not None
    assert (stored.session.deleted, stored.session.applied) == (True, {source: 1})


@pytest.mark.parametrize("step", ["the index", "the topic of keys", "the reply topic"])
async def test_a_deletion_that_breaks_off_anywhere_is_finished_by_whoever_is_next(system: System, step: str) -> None:
    worker = Worker(seals=system.process())
    await worker.run(message := await sealed(system, "s1", 0, "m0"))
    match step:
        case "the index":
            ids = system.index.ids

            async def then_away(session_id: str) -> list[str]:
                found = await ids(session_id)
                system.index.away = True
                return found

            system.index.ids = then_away  # type: ignore[method-assign]
        case "the topic of keys":
            system.log.away = True
        case _:
            worker.publisher.fail(TOPICS.replies, Killed("away"))
    deletion = deletion_at(1)
    # The turn would wait for what is away; the process ends before that.
    with pytest.raises((TimeoutError, StoreUnavailable, Killed)):
        async with asyncio.timeout(0.2):
            await worker.turn(deletion)
    system.index.away = system.log.away = False
    fresh = worker.restarted(seals=system.process())
    await fresh.run(message, deletion)
    await fresh.run(await sealed(system, "s1", 2, "m2"))
    with pytest.raises(KeyDestroyed):
        await system.process().open(message.value or b"")
    told = await replies(fresh, system)
    assert [type(each) for each in told if each is not None] == [SessionDeleted, TurnCompleted]
    assert worker.observer.seen["turn:turn.failed"] == fresh.observer.seen["turn:turn.failed"] == 0


async def test_what_was_sealed_before_and_comes_behind_the_deletion_is_told_so(system: System) -> None:
    worker = Worker(seals=system.process())
    first, late = await sealed(system, "s1", 0, "m0"), await sealed(system, "s1", 2, "late")
    await worker.run(first, deletion_at(1), late)
    await worker.run(await sealed(system, "s1", 3, "m3"))
    told = [each for each in await replies(worker, system) if each is not None]
    assert [type(each) for each in told] == [SessionDeleted, TurnFailed, TurnCompleted]
    failed = told[1]
    assert isinstance(failed, TurnFailed)
    assert (failed.inbound_id, failed.code, failed.redrivable) == ("late", "erased", False)
    assert worker.publisher.of(TOPICS.dlq) == []
    await worker.restarted(seals=system.process()).run(first, late)
    assert len(worker.publisher.of(TOPICS.replies)) == 4, "what comes again is recognised"


async def test_the_key_of_a_later_life_outlives_the_deletion_that_comes_again(system: System) -> None:
    worker = Worker(seals=system.process())
    await worker.run(await sealed(system, "s1", 0, "m0"))
    deletion = deletion_at(1)
    worker.publisher.lose_acknowledgement(TOPICS.replies, Killed("lost"))
    with pytest.raises(Killed):
        await worker.turn(deletion)
    later = await sealed(system, "s1", 2, "m2")
    await worker.restarted(seals=system.process()).run(deletion, later)
    assert await system.process().open(later.value or b"")
    key_ids = {parse_sealed(each.value or b"").key_id for each in (later,)}
    assert key_ids.isdisjoint({entry.key_id for entry in system.log.entries if entry.wrapped is None})


async def test_what_waited_while_somebody_else_deleted_the_session_begins_no_new_life(system: System) -> None:
    """By a command, say: this worker hears of it only from the store, and remembers the key."""
    worker = Worker(seals=system.process())
    await worker.run(await sealed(system, "s1", 0, "m0"))
    waiting = await sealed(system, "s1", 1, "waited")
    command = system.process()
    sessions = DirectSessions(
        worker.store,
        SealingPublisher(worker.publisher, command),
        reply_topic=TOPICS.replies,
        partitions=PARTITIONS,
        now=lambda: (worker.clock().ms, "2026-01-02T03:04:05.000Z"),
        seals=command,
    )
    assert await sessions.delete("s1")
    await worker.run(waiting)
    told = [each for each in await replies(worker, system) if each is not None]
    # Whoever finds that somebody else wrote publishes what that may have left unpublished.
    assert [type(each) for each in told] == [SessionDeleted, SessionDeleted, TurnFailed]
    assert worker.generator.calls == ["m0"] or worker.observer.seen["stale"] == 1
    with pytest.raises(KeyDestroyed):
        await system.process().open(waiting.value or b"")
