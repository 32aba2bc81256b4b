"""The consumer of every process on a real broker: a poll that raises has taken nothing, and only what is committed is
read."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, NotLeaderForPartitionError
from aiokafka.protocol.fetch import FetchRequest

from ops.kafka.fetch_screen import FetchScreen
from ops.kafka.screened_consumer import ScreenedConsumer
from ops.local.kafka import KafkaServer
from schemas.sealed import KEY_ID_BYTES, NONCE_BYTES, head_of
from store.errors import StoreUnavailable
from store.seals import NO_KEYS, NoKeys
from tests.polling import eventually
from tests.topic_records import producer
from tests.unit.ops.batches import batches, with_header
from workers.errors import ClientBroken, PartitionUnreadable
from workers.records import UnreadableRecord

PARTITIONS = 3
SEALED = head_of("s1", "00" * KEY_ID_BYTES, b"0" * NONCE_BYTES) + b"x" * 40


class Unheard(Exception):
    """A type that no client knows."""


@pytest.fixture
async def topic(kafka: KafkaServer, topic_prefix: str) -> str:
    name = f"{topic_prefix}inbound.v1"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    await admin.close()
    return name


@asynccontextmanager
async def consumer(kafka: KafkaServer, topic: str, **arguments: Any) -> AsyncIterator[ScreenedConsumer]:
    """Reads all partitions from their begin, and knows where that is."""
    made = ScreenedConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=50,
        **arguments,
    )
    await made.start()
    places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    made.assign(places)
    try:
        for place in places:
            await made.position(place)
        yield made
    finally:
        await made.stop()


async def publish(kafka: KafkaServer, topic: str, count: int) -> None:
    """So many records to each partition, each in a batch of its own."""
    async with producer(kafka.bootstrap_servers) as client:
        for n in range(count):
            for number in range(PARTITIONS):
                await client.send_and_wait(topic, b"%d of %d" % (n, number), b"key", number, headers=[("name", b"v")])


def expected(count: int, partitions: Collection[int] = range(PARTITIONS)) -> dict[int, list[bytes]]:
    return {number: [b"%d of %d" % (n, number) for n in range(count)] for number in partitions}


class Reading:
    """What polls brought, and what they raised."""

    def __init__(self, of: ScreenedConsumer) -> None:
        self._consumer = of
        self.records: dict[int, list[Any]] = defaultdict(list)
        self.errors: list[Exception] = []

    async def poll(self, max_records: int | None = None) -> None:
        try:
            batches = await self._consumer.getmany(timeout_ms=200, max_records=max_records)
        except Exception as error:
            self.errors.append(error)
            return
        for place, records in batches.items():
            self.records[place.partition] += records

    @property
    def values(self) -> dict[int, list[bytes]]:
        return {number: [record.value for record in records] for number, records in self.records.items()}

    async def until(self, holds: Callable[[], bool], what: str, **arguments: Any) -> None:
        async def polled() -> bool:
            await self.poll(**arguments)
            return holds()

        await eventually(polled, what)


class Between:
    """Stands between a consumer and its client."""

    def __init__(self, of: ScreenedConsumer) -> None:
        self._screening = of._client
        self._inner = self._screening._inner
        self._screening._inner = self
        self.raises: Callable[[Any], Exception | None] = lambda request: None
        self.changes: Callable[[int, bytes], bytes] = lambda partition, records: records
        self.raised = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, node_id: int, request: Any, **arguments: Any) -> Any:
        if (error := self.raises(request)) is not None:
            self.raised += 1
            raise error
        response = await self._inner.send(node_id, request, **arguments)
        if isinstance(request, FetchRequest):
            response.topics = [
                (topic, [(*part[:-1], self.changes(part[0], part[-1])) if part[-1] else part for part in partitions])
                for topic, partitions in response.topics
            ]
        return response


@pytest.mark.parametrize("error", [RuntimeError("?"), AssertionError(), Unheard("?")])
async def test_a_poll_that_raises_after_it_drained_a_partition_has_taken_nothing(
    kafka: KafkaServer, topic: str, error: Exception
) -> None:
    """L: the client loses what it drained; the next poll gives all of it again."""
    await publish(kafka, topic, 5)
    poisoned = True
    first: bytes | None = None

    def decoded(value: bytes) -> bytes:
        nonlocal first
        first = first or value[-1:]
        if poisoned and value[-1:] != first:
            raise error
        return value

    async with consumer(kafka, topic, value_deserializer=decoded) as made:
        reading = Reading(made)
        await reading.until(lambda: len(reading.errors) >= 3, "the poison is met")
        assert set(map(type, reading.errors)) == {type(error)}
        poisoned = False
        await reading.until(lambda: sum(map(len, reading.values.values())) >= 15, "everything is read")
        assert reading.values == expected(5)


async def test_what_was_returned_does_not_come_again_after_a_poll_that_raised(kafka: KafkaServer, topic: str) -> None:
    """D, O"""
    await publish(kafka, topic, 5)
    poisoned = True

    def decoded(value: bytes) -> bytes:
        if poisoned and value.startswith(b"3"):
            raise Unheard
        return value

    async with consumer(kafka, topic, value_deserializer=decoded) as made:
        reading = Reading(made)
        await reading.until(lambda: len(reading.errors) >= 3, "the poison is met", max_records=1)
        assert any(reading.values.values()), "something was returned before"
        poisoned = False
        await reading.until(lambda: sum(map(len, reading.values.values())) >= 15, "everything is read", max_records=2)
        assert reading.values == expected(5)


async def test_a_poll_whose_values_cannot_be_opened_has_taken_nothing(kafka: KafkaServer, topic: str) -> None:
    """L: the keys are away for a while."""
    await publish(kafka, topic, 2)
    async with producer(kafka.bootstrap_servers) as client:
        await client.send_and_wait(topic, SEALED, b"key", 1)

    class Away(NoKeys):
        away = True

        async def opened(
            self, values: Sequence[bytes | None], *, without_wrong_keys: bool = False
        ) -> list[bytes | None]:
            if self.away:
                raise StoreUnavailable("away")
            return [b"opened" if value == SEALED else value for value in values]

    seals = Away()
    async with consumer(kafka, topic, seals=seals) as made:
        reading = Reading(made)
        await reading.until(lambda: len(reading.errors) >= 2, "the keys are asked for")
        seals.away = False
        await reading.until(lambda: sum(map(len, reading.values.values())) >= 7, "everything is read")
        assert reading.values == {**expected(2), 1: [b"0 of 1", b"1 of 1", b"opened"]}


async def test_what_is_sought_is_read_from_there_after_a_poll_that_raised(kafka: KafkaServer, topic: str) -> None:
    """L, C"""
    await publish(kafka, topic, 4)
    poisoned = True

    def decoded(value: bytes) -> bytes:
        if poisoned and value == b"3 of 1":
            raise Unheard
        return value

    async with consumer(kafka, topic, value_deserializer=decoded) as made:
        reading = Reading(made)
        for number in range(PARTITIONS):
            made.seek(TopicPartition(topic, number), 2)
        await reading.until(lambda: bool(reading.errors), "the poison is met")
        poisoned = False
        await reading.until(lambda: sum(map(len, reading.values.values())) >= 6, "everything is read")
        assert reading.values == {number: [b"2 of %d" % number, b"3 of %d" % number] for number in range(PARTITIONS)}


async def test_only_committed_records_are_read(kafka: KafkaServer, topic: str) -> None:
    """L: aborted ones never, open ones when they are committed."""
    client = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=topic)
    await client.start()
    try:
        async with client.transaction():
            await client.send_and_wait(topic, b"committed", None, 0)
        await client.begin_transaction()
        await client.send_and_wait(topic, b"aborted", None, 0)
        await client.abort_transaction()
        await client.begin_transaction()
        await client.send_and_wait(topic, b"open", None, 0)
        async with consumer(kafka, topic, isolation_level="read_uncommitted") as made:
            reading = Reading(made)
            await reading.until(lambda: bool(reading.values), "what is committed is read")
            for _ in range(3):
                await reading.poll()
            assert reading.values == {0: [b"committed"]}
            await client.commit_transaction()
            await reading.until(lambda: len(reading.values[0]) > 1, "what was open is read")
            assert reading.values == {0: [b"committed", b"open"]}
            assert [record.offset for record in reading.records[0]] == [0, 4]
    finally:
        await client.stop()


def flipped(records: bytes) -> bytes:
    """With a bit turned in the last one of the batches."""
    return records[:-1] + bytes([records[-1] ^ 1])


async def test_a_broken_batch_is_told_once_the_others_are_read_and_nothing_of_its_partition_is_skipped(
    kafka: KafkaServer, topic: str
) -> None:
    """P, L: it is told again with each poll, until its partition is paused; and read when it is well."""
    await publish(kafka, topic, 3)
    async with consumer(kafka, topic) as made:
        between, reading = Between(made), Reading(made)
        between.changes = lambda partition, records: flipped(records) if partition == 1 else records
        await reading.until(lambda: bool(reading.errors), "the broken batch is met")
        error = reading.errors[0]
        assert isinstance(error, PartitionUnreadable)
        assert (error.topic, error.partition, error.reason) == (topic, 1, "its checksum is wrong")
        assert error.offset == len(reading.values.get(1, []))
        made.pause(TopicPartition(topic, 1))
        await publish(kafka, topic, 1)
        await reading.until(lambda: all(len(reading.values.get(number, [])) == 4 for number in (0, 2)), "others go on")
        assert len(reading.values.get(1, [])) == error.offset
        between.changes = lambda partition, records: records
        made.resume(TopicPartition(topic, 1))
        await reading.until(lambda: len(reading.values.get(1, [])) == 4, "it is read where it stood")
        assert reading.values == {number: [*of, b"0 of %d" % number] for number, of in expected(3).items()}


async def test_a_broken_batch_that_was_read_well_meanwhile_is_forgotten(kafka: KafkaServer, topic: str) -> None:
    """L: a fault on the way is no fault of the record."""
    await publish(kafka, topic, 2)
    async with consumer(kafka, topic) as made:
        between, reading = Between(made), Reading(made)
        broken = 2

        def changes(partition: int, records: bytes) -> bytes:
            nonlocal broken
            broken -= 1
            return flipped(records) if broken >= 0 else records

        between.changes = changes
        await reading.until(lambda: sum(map(len, reading.values.values())) == 6, "everything is read")
        assert reading.values == expected(2)
        assert all(isinstance(error, PartitionUnreadable) for error in reading.errors)


async def test_a_batch_that_unpacks_to_too_much_comes_as_one_record_and_those_behind_it_follow(
    kafka: KafkaServer, topic: str
) -> None:
    """P, L"""
    client = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, compression_type="zstd")
    await client.start()
    await client.send_and_wait(topic, b"before", None, 0)
    await client.send_and_wait(topic, b"\0" * 200_000, None, 0)
    await client.send_and_wait(topic, b"behind", None, 0)
    await client.stop()
    async with consumer(kafka, topic) as made:
        made._client._screen = made._screen = FetchScreen(max_unpacked_bytes=100_000)
        reading = Reading(made)
        await reading.until(lambda: len(reading.records[0]) >= 3, "everything is read")
        before, refused, behind = reading.records[0]
        assert (before.value, behind.value, behind.offset) == (b"before", b"behind", 2)
        assert isinstance(refused, UnreadableRecord)
        assert (refused.offset, refused.last_offset, refused.reason) == (1, 1, "too_large_unpacked")
        assert made._screen.notes == {}


async def test_header_names_that_are_no_utf_8_come_escaped_and_no_record_is_lost(
    kafka: KafkaServer, topic: str
) -> None:
    """L: what the client had drained when it met the first one comes again."""
    await publish(kafka, topic, 3)

    came: list[int] = []

    def strange(partition: int, records: bytes) -> bytes:
        came.append(partition)
        if partition == came[0]:
            return records
        return b"".join(
            with_header(raw.replace(b"name", b"n\xe9me"), offset=int.from_bytes(raw[:8], "big"), bits=0)
            for raw in _split(records)
        )

    async with consumer(kafka, topic) as made:
        between, reading = Between(made), Reading(made)
        between.changes = strange
        await reading.until(lambda: sum(map(len, reading.values.values())) >= 9, "everything is read")
        assert reading.values == expected(3)
        for number, records in reading.records.items():
            names = {name for record in records for name, _ in record.headers}
            assert names == ({"name"} if number == came[0] else {"n\\xe9me"})
        assert reading.errors == []


def _split(records: bytes) -> list[bytes]:
    split, at = [], 0
    for _ in batches(records):
        end = at + 12 + int.from_bytes(records[at + 8 : at + 12], "big")
        split.append(records[at:end])
        at = end
    return split


@pytest.mark.parametrize("error", [RuntimeError("the transport is closed"), OSError("reset"), Unheard("?")])
async def test_a_connection_that_was_reset_is_an_error_that_the_client_knows_and_reading_goes_on(
    kafka: KafkaServer, topic: str, error: Exception
) -> None:
    """L, H: the client's own tasks handle Kafka's errors only, and would end."""
    await publish(kafka, topic, 1)
    async with consumer(kafka, topic) as made:
        between, reading = Between(made), Reading(made)
        await reading.until(lambda: sum(map(len, reading.values.values())) == 3, "everything is read")
        between.raises = lambda request: error
        with pytest.raises(KafkaConnectionError, match=type(error).__name__):
            await made._client.send(1, object())
        raised = between.raised
        await publish(kafka, topic, 1)
        await reading.until(lambda: between.raised >= raised + 3, "fetches fail")
        between.raises = lambda request: None
        await reading.until(lambda: sum(map(len, reading.values.values())) == 6, "reading goes on")
        assert reading.values == {number: [b"0 of %d" % number] * 2 for number in range(PARTITIONS)}
        assert not any(isinstance(each, ClientBroken) for each in reading.errors)


async def test_errors_of_kafka_pass_as_they_are(kafka: KafkaServer, topic: str) -> None:
    async with consumer(kafka, topic) as made:
        between = Between(made)
        between.raises = lambda request: None if isinstance(request, FetchRequest) else NotLeaderForPartitionError()
        with pytest.raises(NotLeaderForPartitionError):
            await made._client.send(1, object())


async def test_a_client_whose_fetch_task_ended_says_so(kafka: KafkaServer, topic: str) -> None:
    """H: it would return nothing for ever."""
    async with consumer(kafka, topic) as made:
        await made.getmany(timeout_ms=10)
        made._fetcher._fetch_task.cancel()
        await asyncio.wait([made._fetcher._fetch_task])
        with pytest.raises(ClientBroken):
            await made.getmany(timeout_ms=10)


async def test_without_keys_nothing_is_opened(kafka: KafkaServer, topic: str) -> None:
    async with producer(kafka.bootstrap_servers) as client:
        await client.send_and_wait(topic, SEALED, b"key", 1)
    async with consumer(kafka, topic, seals=NO_KEYS) as made:
        reading = Reading(made)
        await reading.until(lambda: bool(reading.values), "it is read")
        assert reading.values == {1: [SEALED]}
