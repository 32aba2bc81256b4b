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

    def create_batch(self) -> "FakeBatch":
        return FakeBatch()

    async def send_batch(self, batch: "FakeBatch", topic: str, *, partition: int) -> "asyncio.Future[RecordMetadata]":
        if self.send_error is not None:
            raise self.send_error
        first = len(self.sent)
        self.sent += [(topic, value, key, partition, headers) for key, value, headers in batch.records]
        delivery: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self.deliveries.append(delivery)
        if self.delivery_error is not None:
            delivery.set_exception(self.delivery_error)
        elif self.delivers:
            place = TopicPartition(topic, partition)
            delivery.set_result(RecordMetadata(topic, partition, place, first, -1, 0, 0))
        return delivery

    async def partitions_for(self, topic: str) -> set[int]:
        return {0, 1, 2}


class FakeBatch:
    """Takes up to `ROOM` records."""

    ROOM = 100

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = []

    def append(
        self, *, timestamp: float | None, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> object | None:
        if len(self.records) == self.ROOM:
            return None
        self.records.append((key, value, headers))
        return object()


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
    assert factory.made[0].sent == [("t", b"v", b"k", 3, [("h", b"1")])]
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
    await publisher.publish(Record("t", b"k", b"v" * 7, 3, headers=[("h", b"1")]))
    for record in (Record("t", b"k", b"v" * 10, 3), Record("t", None, b"v", 3, headers=[("h", b"1" * 9)])):
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
    await until(lambda: bool(factory.made) and len(factory.made[0].sent) == 50)
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


async def test_what_is_published_at_once_leaves_in_one_batch_and_everyone_learns_their_own_place() -> None:
    factory = Factory()
    publisher = KafkaPublisher(factory)
    await publisher.publish(RECORD)
    positions = await asyncio.gather(*(publisher.publish(RECORD) for _ in range(30)))
    assert [position.offset for position in positions] == list(range(1, 31)), "in the order of publishing"
    assert len(factory.made[0].deliveries) == 2
    await publisher.close()


async def test_what_comes_while_a_batch_is_under_way_leaves_in_the_next_in_order() -> None:
    """O"""
    factory = Factory(broken(delivers=False))
    publisher = KafkaPublisher(factory)
    records = [Record("t", b"k", str(number).encode(), 3) for number in range(250)]
    publishing = asyncio.gather(*(publisher.publish(record) for record in records))
    producer_of = factory.made
    for batch in range(3):
        await until(lambda batch=batch: bool(producer_of) and len(producer_of[0].deliveries) == batch + 1)  # type: ignore[misc]
        first = batch * FakeBatch.ROOM
        place = TopicPartition("t", 3)
        producer_of[0].deliveries[batch].set_result(RecordMetadata("t", 3, place, first, -1, 0, 0))
    assert [position.offset for position in await publishing] == list(range(250))
    assert [value for _, value, *_ in producer_of[0].sent] == [record.value for record in records]
    await publisher.close()


async def test_a_large_record_travels_alone() -> None:
    """A broker that refuses it for its size must refuse no other."""
    factory = Factory()
    publisher = KafkaPublisher(factory)
    await publisher.publish(RECORD)
    values = [b"a", b"b" * 50_000, b"c"]
    await asyncio.gather(*(publisher.publish(Record("t", b"k", value, 3)) for value in values))
    assert [value for _, value, *_ in factory.made[0].sent][1:] == values
    assert len(factory.made[0].deliveries) == 4
    await publisher.close()
