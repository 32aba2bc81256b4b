"""The edge's reader on real Kafka: failing consumers, and transactions, whose markers take offsets of their own."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from ingress.fetch_loop import LoopTimes
from ingress.topic_reader import STALLED_SECONDS, KeyAndValue, ReaderStalled, TopicReader
from ops.kafka.connection import KafkaConnection
from ops.kafka.topics import TopicAdmin
from ops.local.kafka import KafkaServer
from ops.wiring.ingress import log_ends
from schemas.topics import TopicNames, topic_specs
from tests.polling import eventually

PARTITIONS = 3
RECORDS = 600
TIMES = LoopTimes(look=0.2, patience=2.0, first_wait=0.01, longest_wait=0.1)


class Failing:
    """A real consumer that fails as its edge says, when it has fetched something."""

    def __init__(self, consumer: AIOKafkaConsumer, edge: "Edge") -> None:
        self._consumer = consumer
        self._edge = edge

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    async def getmany(self, **arguments: Any) -> Any:
        if fetched := await self._consumer.getmany(**arguments):
            self._edge.fetched()
        return fetched


class Edge:
    """A reader whose consumers fail at every n-th fetch, after they have moved on past what they fetched."""

    def __init__(self, connection: KafkaConnection, topic: str, *, fails_every: int = 0) -> None:
        self.connection = connection
        self._fails_every = fails_every
        self._fetches = 0
        self.failures = 0
        self.ahead_seconds = 0.0
        self.delivered: list[bytes | None] = []
        self.reader = TopicReader(
            self._consumer,
            topic,
            self._opened,
            [lambda key, value: self.delivered.append(value)],
            log_ends=self._log_ends,
            observer=self,
            times=TIMES,
            clock=lambda: asyncio.get_running_loop().time() + self.ahead_seconds,
        )

    def record_refused(self, topic: str, reason: str) -> None: ...

    def reader_replaced(self, topic: str) -> None: ...

    def _consumer(self) -> Any:
        return Failing(self.connection.reader(auto_offset_reset="earliest", isolation_level="read_committed"), self)

    def fetched(self) -> None:
        self._fetches += 1
        if self._fails_every and self._fetches % self._fails_every == 0:
            self.failures += 1
            raise RuntimeError("unforeseen")

    async def _opened(self, records: Collection[KeyAndValue]) -> list[bytes | None]:
        return [value for _, value in records]

    async def _log_ends(self, topic: str, partitions: Collection[int]) -> Mapping[int, int]:
        return await log_ends(self.connection, topic, partitions)


@pytest.fixture
async def replies(kafka: KafkaServer, topic_prefix: str) -> str:
    names = TopicNames(topic_prefix)
    async with TopicAdmin(KafkaConnection(kafka.bootstrap_servers)) as admin:
        await admin.create(topic_specs(names, PARTITIONS), 1)
    return names.replies


@asynccontextmanager
async def writer(kafka: KafkaServer, transactional_id: str) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=transactional_id)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def test_failing_consumers_leave_nothing_out_and_deliver_nothing_twice(kafka: KafkaServer, replies: str) -> None:
    """Every third transaction is aborted, and none of its records is delivered."""
    edge = Edge(KafkaConnection(kafka.bootstrap_servers), replies, fails_every=3)
    await edge.reader.start(PARTITIONS)
    try:
        committed: list[bytes] = []
        async with writer(kafka, replies) as producer:
            for begin in range(0, RECORDS, 20):
                values = [b"%d" % number for number in range(begin, begin + 20)]
                await producer.begin_transaction()
                await asyncio.gather(
                    *[await producer.send(replies, value, partition=n % PARTITIONS) for n, value in enumerate(values)]
                )
                if begin % 60 == 40:
                    await producer.abort_transaction()
                else:
                    await producer.commit_transaction()
                    committed += values

        async def all_came() -> bool:
            return len(edge.delivered) >= len(committed)

        await eventually(all_came, "every committed record is delivered")
        assert sorted(edge.delivered, key=lambda value: int(value or b"")) == committed
        assert edge.failures > 3, "the fault did not happen"
    finally:
        await edge.reader.stop()


async def test_a_topic_that_ends_in_transaction_markers_is_read_to_its_end(kafka: KafkaServer, replies: str) -> None:
    edge = Edge(KafkaConnection(kafka.bootstrap_servers), replies)
    await edge.reader.start(PARTITIONS)
    try:
        async with writer(kafka, replies) as producer, producer.transaction():
            for partition in range(PARTITIONS):
                await producer.send_and_wait(replies, b"1", partition=partition)
        edge.ahead_seconds = STALLED_SECONDS + 1

        async def is_ready() -> bool:
            try:
                await edge.reader.check()
            except ReaderStalled:
                return False
            return True

        await eventually(is_ready, "the reader knows that nothing waits")
        assert edge.delivered == [b"1"] * PARTITIONS
    finally:
        await edge.reader.stop()


async def test_a_reader_whose_broker_can_not_be_reached_is_not_ready_and_says_which_topic(
    kafka: KafkaServer, replies: str
) -> None:
    """H"""
    connection = KafkaConnection(kafka.bootstrap_servers)
    edge = Edge(connection, replies)
    await edge.reader.start(PARTITIONS)
    try:
        edge.connection = replace(connection, bootstrap_servers="127.0.0.1:1")
        edge.ahead_seconds = STALLED_SECONDS + 1
        with pytest.raises(ReaderStalled, match=replies):
            await edge.reader.check()
    finally:
        await edge.reader.stop()
