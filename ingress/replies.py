"""The reader of the reply and delta topics: every ingress process reads all partitions, for any may hold the socket."""

import asyncio
from collections.abc import Callable

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from ingress.delivery import Delivery
from schemas.topics import TopicNames

log = structlog.get_logger(__name__)


class ReplyReader:
    """Reads from the end of the topics as it was at `start`: what was before, the store has."""

    def __init__(self, make_consumer: Callable[[], AIOKafkaConsumer], topics: TopicNames, delivery: Delivery) -> None:
        self._make_consumer = make_consumer
        self._topics = topics
        self._delivery = delivery
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, partitions: int) -> None:
        """Returns when every reply that is published from now on will be delivered."""
        consumer = self._make_consumer()
        await consumer.start()
        places = [
            TopicPartition(topic, partition)
            for topic in (self._topics.replies, self._topics.deltas)
            for partition in range(partitions)
        ]
        consumer.assign(places)
        for place, offset in (await consumer.end_offsets(places)).items():
            consumer.seek(place, offset)
        self._consumer = consumer
        self._task = asyncio.create_task(self._read(consumer), name="reply-reader")

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._consumer is not None:
            await self._consumer.stop()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        replies = self._topics.replies
        while True:
            try:
                batches = await consumer.getmany(timeout_ms=60_000, max_records=2_000)
            except KafkaError as error:
                # Brokers come back; positions are kept, so nothing is missed.
                log.warning("reply_reader_waits", error=str(error) or type(error).__name__)
                await asyncio.sleep(1.0)
                continue
            for place, records in batches.items():
                deliver = self._delivery.reply if place.topic == replies else self._delivery.delta
                for record in records:
                    deliver(record.key, record.value)
