"""The publisher: sizes checked, every send bounded in time, a broken producer replaced."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, MessageSizeTooLargeError, OutOfOrderSequenceNumber
from aiokafka.structs import RecordMetadata, TopicPartition

from ops.kafka.publisher import KafkaPublisher
from schemas.publishing import BrokerUnavailable, Position, Record, RecordTooLarge

DEADLINE_S = 5.0
RECORD = Record("t", b"k", b"v", partition=3, headers=[("h", b"1")])


class FakeProducer:
    """The calls of AIOKafkaProducer that publishing needs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = self.stopped = 0
        self.sent: list[tuple[Any, ...]] = []
        self.start_error: Exception | None = None
        self.start_gate: asyncio.Event | None = None
        self.send_error: Exception | None = None
        self.delivery_error: Exception | None = None
        self.delivers = True
        self.deliveries: list[asyncio.Future[RecordMetadata]] = []
        self.stop_error: Exception | None = None
        self.flushed = asyncio.Event()

    async def flush(self) -> None:
        await self.flushed.wait()

    async def start(self) -> None:
        self.started += 1
        if self.start_gate is not None:
            await self.start_gate.wait()
        if self.start_error is not None:
            raise self.start_error

    async def stop(self) -> None:
        self.stopped += 1
        if self.stop_error is not None:
            raise self.stop_error

    async def send(self, *arguments: Any) -> "asyncio.Future[RecordMetadata]":
        if self.send_error is not None:
            raise self.send_error
        self.sent.append(arguments)
        delivery: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self.deliveries.append(delivery)
        topic, partition = arguments[0], arguments[3] or 0
        if self.delivery_error is not None:
            delivery.set_exception(self.delivery_error)
        elif self.delivers:
            place = TopicPartition(topic, partition)
            delivery.set_result(RecordMetadata(topic, partition, place, len(self.sent) - 1, -1, 0, 0))
        return delivery

    @property
    def client(self) -> "FakeProducer":
        return self

    async def force_metadata_update(self) -> bool:
        return True

    async def partitions_for(self, topic: str) -> set[int]:
        return {0, 1, 2}


class Factory:
    """Makes producers, each prepared by the next of `prepare`."""

    def __init__(self, *prepare: Callable[[FakeProducer], None]) -> None:
        self.made: list[FakeProducer] = []
        self._prepare = list(prepare)

    def __call__(self) -> AIOKafkaProducer:
        producer = FakeProducer(f"p{len(self.made)}")
        if self._prepare:
            self._prepare.pop(0)(producer)
        self.made.append(producer)
        return cast(AIOKafkaProducer, producer)


def broken(**attributes: object) -> Callable[[FakeProducer], None]:
    return lambda producer: producer.__dict__.update(attributes)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        await asyncio.sleep(0.005)


async def test_a_record_is_sent_whole_and_its_place_returned() -> None:
    factory = Factory()
    publisher = KafkaPublisher(factory)
    assert await publisher.publish(RECORD) == Position("t", 3, 0)
    assert factory.made[0].sent == [("t", b"v", b"k", 3, None, [("h", b"1")])]
    assert await publisher.partitions_of("t") == 3
    await publisher.close()
    assert (factory.made[0].started, factory.made[0].stopped) == (1, 1)


async def test_many_who_publish_at_once_share_one_producer() -> None:
    factory = Factory()
    publisher = KafkaPublisher(factory)
    await asyncio.gather(*(publisher.publish(RECORD) for _ in range(50)))
    assert len(factory.made) == 1
    await publisher.close()


async def test_a_record_that_is_too_large_is_refused_before_it_is_sent() -> None:
    """An oversize batch can break an idempotent producer for everyone."""
    factory = Factory()
    publisher = KafkaPublisher(factory, max_record_bytes=10)
    await publisher.publish(Record("t", b"k", b"v" * 7, headers=[("h", b"1")]))
    for record in (Record("t", b"k", b"v" * 10), Record("t", None, b"v", headers=[("h", b"1" * 9)])):
        with pytest.raises(RecordTooLarge, match="11 bytes"):
            await publisher.publish(record)
    assert len(factory.made[0].sent) == 1
    await publisher.close()


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ({"send_error": KafkaTimeoutError()}, BrokerUnavailable),
        ({"delivery_error": KafkaConnectionError()}, BrokerUnavailable),
        ({"delivery_error": OutOfOrderSequenceNumber()}, BrokerUnavailable),
        ({"delivery_error": OSError("reset")}, BrokerUnavailable),
        ({"delivery_error": MessageSizeTooLargeError()}, RecordTooLarge),
    ],
)
async def test_a_producer_that_failed_is_replaced(failure: dict[str, object], error: type[Exception]) -> None:
    factory = Factory(broken(**failure))
    publisher = KafkaPublisher(factory)
    with pytest.raises(error):
        await publisher.publish(RECORD)
    await publisher.publish(RECORD)
    await until(lambda: factory.made[0].stopped == 1)
    assert len(factory.made) == 2
    await publisher.close()


async def test_many_failures_of_one_producer_replace_it_once() -> None:
    factory = Factory(broken(delivers=False))
    publisher = KafkaPublisher(factory)
    publishing = asyncio.gather(*(publisher.publish(RECORD) for _ in range(50)), return_exceptions=True)
    await until(lambda: bool(factory.made) and len(factory.made[0].deliveries) == 50)
    for delivery in factory.made[0].deliveries:
        delivery.set_exception(KafkaConnectionError())
    outcomes = await publishing
    assert {type(outcome) for outcome in outcomes} == {BrokerUnavailable}
    await publisher.publish(RECORD)
    await publisher.close()
    assert [producer.stopped for producer in factory.made] == [1, 1]


async def test_a_send_that_is_not_acknowledged_in_time_is_given_up() -> None:
    """P"""
    factory = Factory(broken(delivers=False))
    publisher = KafkaPublisher(factory, timeout_seconds=0.05)
    outcomes = await asyncio.gather(*(publisher.publish(RECORD) for _ in range(3)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BrokerUnavailable}
    await publisher.publish(RECORD)
    await publisher.close()


async def test_who_is_cancelled_while_publishing_is_cancelled() -> None:
    factory = Factory(broken(delivers=False))
    publisher = KafkaPublisher(factory)
    publishing = asyncio.create_task(publisher.publish(RECORD))
    await until(lambda: bool(factory.made and factory.made[0].sent))
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    await publisher.close()


async def test_a_broker_that_does_not_answer_is_unavailable_and_its_producer_is_stopped() -> None:
    for failure in ({"start_error": KafkaConnectionError()}, {"start_gate": asyncio.Event()}):
        factory = Factory(broken(**failure))
        publisher = KafkaPublisher(factory, timeout_seconds=0.05)
        with pytest.raises(BrokerUnavailable):
            await publisher.start()
        assert factory.made[0].stopped == 1
        await publisher.publish(RECORD)
        assert len(factory.made) == 2
        await publisher.close()


async def test_who_is_cancelled_while_connecting_leaves_no_producer_behind() -> None:
    factory = Factory(broken(start_gate=asyncio.Event()))
    publisher = KafkaPublisher(factory)
    starting = asyncio.create_task(publisher.publish(RECORD))
    await until(lambda: bool(factory.made and factory.made[0].started))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await publisher.close()
    assert factory.made[0].stopped == 1


async def test_a_producer_that_cannot_be_stopped_hinders_nobody() -> None:
    factory = Factory(broken(delivery_error=KafkaConnectionError(), stop_error=KafkaConnectionError()))
    publisher = KafkaPublisher(factory)
    with pytest.raises(BrokerUnavailable):
        await publisher.publish(RECORD)
    await publisher.publish(RECORD)
    await publisher.close()


async def test_settling_waits_for_what_was_sent_also_by_those_who_have_gone() -> None:
    factory = Factory()
    publisher = KafkaPublisher(factory, timeout_seconds=DEADLINE_S)
    await publisher.start()
    settling = asyncio.create_task(publisher.settle())
    await asyncio.sleep(0.01)
    assert not settling.done()
    factory.made[0].flushed.set()
    await settling
    await publisher.close()


async def test_settling_ends_at_the_time_limit() -> None:
    publisher = KafkaPublisher(Factory(), timeout_seconds=0.05)
    await publisher.start()
    await publisher.settle()
    await publisher.close()
