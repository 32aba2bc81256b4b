"""The reader of the reply or delta topic: every ingress process reads all partitions, for any may hold the socket."""

import asyncio
from collections.abc import Callable

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

log = structlog.get_logger(__name__)

Deliver = Callable[[bytes | None, bytes | None], None]
"""Takes a record's key and value without waiting."""


class TopicReader:
    """Reads from the end of the topic as it was at `start`: what was before, the store has."""

    def __init__(self, make_consumer: Callable[[], AIOKafkaConsumer], topic: str, deliver: Deliver) -> None:
        self._make_consumer = make_consumer
        self._topic = topic
        self._deliver = deliver
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, partitions: int) -> None:
        """Returns when every record that is published from now on will be delivered. Raises KafkaError."""
        self._consumer = consumer = self._make_consumer()
        await consumer.start()
        places = [TopicPartition(self._topic, partition) for partition in range(partitions)]
        consumer.assign(places)
        for place, offset in (await consumer.end_offsets(places)).items():
            consumer.seek(place, offset)
        self._task = asyncio.create_task(self._read(consumer), name=f"read {self._topic}")

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
        while True:
            try:
                batches = await consumer.getmany(timeout_ms=60_000, max_records=2_000)
            except KafkaError as error:
                # Brokers come back; positions are kept, so nothing is missed.
                log.warning("reader_waits", topic=self._topic, error=str(error) or type(error).__name__)
                await asyncio.sleep(1.0)
                continue
            for records in batches.values():
                for record in records:
                    self._deliver(record.key, record.value)
