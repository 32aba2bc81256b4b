"""The publisher that seals: what it seals, and that nothing overtakes within a session."""

import asyncio
from typing import Any

import pytest

from schemas.headers import SEALED_CONTENT
from schemas.publishing import BrokerUnavailable, Position, Record
from schemas.sealed import is_sealed
from store.sealing import SealingPublisher
from store.seals import NO_KEYS
from tests.contract.keys import System

JSON = ("content-type", b"application/json")


class Log:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.error: Exception | None = None

    async def publish(self, record: Record) -> Position:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.records.append(record)
        return Position(record.topic, 0, len(self.records))


def record(value: bytes | None, key: str = "s", seal_for: str | None = "s") -> Record:
    return Record("topic", key.encode(), value, None, [("ce_id", b"1"), JSON], seal_for)


async def test_only_what_has_content_of_a_session_is_sealed() -> None:
    log, system = Log(), System()
    publisher = SealingPublisher(log, system.process())
    for each in (record(b"{}"), record(b"{}", seal_for=None), record(None)):
        await publisher.publish(each)
    assert [is_sealed(each.value) for each in log.records] == [True, False, False]
    assert [dict(each.headers)["content-type"] for each in log.records] == [SEALED_CONTENT, JSON[1], JSON[1]]
    assert await system.process().open(log.records[0].value or b"") == b"{}"


async def test_what_is_sealed_already_is_not_sealed_again() -> None:
    log, system = Log(), System()
    publisher = SealingPublisher(log, system.process())
    value = await system.process().seal("s", b"{}")
    await publisher.publish(record(value))
    assert log.records[0].value == value


async def test_without_keys_everything_is_as_it_was() -> None:
    log = Log()
    each = record(b"{}")
    await SealingPublisher(log, NO_KEYS).publish(each)
    assert log.records == [each]


async def test_within_a_session_nothing_overtakes_and_sessions_wait_for_none_but_themselves() -> None:
    log, system = Log(), System()
    keys = system.process()
    gate = asyncio.Event()
    append = system.log.append

    async def slow(session_id: str, *key: Any) -> int:
        if session_id == "s":
            await gate.wait()
        return await append(session_id, *key)

    system.log.append = slow  # type: ignore[method-assign, assignment]
    publisher = SealingPublisher(log, keys)
    sent = [record(b"1"), record(b"cancel", seal_for=None), record(b"2"), record(b"other", "o", "o")]
    tasks = [asyncio.create_task(publisher.publish(each)) for each in sent]
    await tasks[3]
    assert len(log.records) == 1
    gate.set()
    await asyncio.gather(*tasks)
    assert await keys.opened([each.value for each in log.records]) == [b"other", b"1", b"cancel", b"2"]
    assert not publisher._turns


async def test_a_key_that_cannot_be_had_is_a_broker_that_is_away_and_the_next_try_works() -> None:
    log, system = Log(), System()
    publisher = SealingPublisher(log, system.process())
    system.log.away = True
    with pytest.raises(BrokerUnavailable):
        await publisher.publish(record(b"{}"))
    system.log.away = False
    await publisher.publish(record(b"{}"))
    assert len(log.records) == 1
    assert not publisher._turns


async def test_sealing_takes_no_longer_than_its_limit() -> None:
    log, system = Log(), System()

    async def never(*key: Any) -> int:
        await asyncio.Event().wait()
        return 0

    system.log.append = never  # type: ignore[method-assign, assignment]
    with pytest.raises(BrokerUnavailable, match="timed out"):
        await SealingPublisher(log, system.process(), timeout_seconds=0.01).publish(record(b"{}"))
