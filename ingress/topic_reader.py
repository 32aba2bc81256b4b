"""The reader of the reply or delta topic: every ingress process reads all partitions, for any may hold the socket."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.sealed import any_sealed
from store.errors import StoreError

log = structlog.get_logger(__name__)

Deliver = Callable[[bytes | None, bytes | None], None]
"""Takes a record's key and value without waiting."""
KeyAndValue = tuple[bytes | None, bytes | None]
Opened = Callable[[Sequence[KeyAndValue]], Awaitable[Sequence[bytes | None]]]
"""The values of records, of which some are sealed, opened where somebody waits for them. May raise StoreError."""
Offsets = Callable[[AIOKafkaConsumer, list[TopicPartition]], Awaitable[dict[TopicPartition, int]]]


class TopicReader:
    """Reads from the end of the topic as it was at `start`: what was before, the store has. Partitions that are added
    later are read from their beginning."""

    def __init__(
        self, make_consumer: Callable[[], AIOKafkaConsumer], topic: str, opened: Opened, deliver: Deliver
    ) -> None:
        self.topic = topic
        self._opened = opened
        self._make_consumer = make_consumer
        self._deliver = deliver
        self._partitions = 0
        self._readers: list[tuple[AIOKafkaConsumer, asyncio.Task[None]]] = []

    async def start(self, partitions: int) -> None:
        """Returns when every record that is published from now on will be delivered. Raises KafkaError."""
        await self._read_from(range(partitions), AIOKafkaConsumer.end_offsets)

    async def extend(self, partitions: int) -> None:
        """The topic has so many partitions now. Raises KafkaError; then it is to be called again."""
        if partitions > self._partitions:
            log.info("partitions_added", topic=self.topic, before=self._partitions, now=partitions)
            # Another consumer: to assign more to the first would lose its place.
            await self._read_from(range(self._partitions, partitions), AIOKafkaConsumer.beginning_offsets)

    @property
    def running(self) -> bool:
        return bool(self._readers) and not any(task.done() for _, task in self._readers)

    async def stop(self) -> None:
        for _, task in self._readers:
            task.cancel()
            await asyncio.wait([task])
        for consumer, _ in self._readers:
            await consumer.stop()

    async def _read_from(self, partitions: range, offsets_of: Offsets) -> None:
        consumer = self._make_consumer()
        try:
            await consumer.start()
            places = [TopicPartition(self.topic, partition) for partition in partitions]
            consumer.assign(places)
            for place, offset in (await offsets_of(consumer, places)).items():
                consumer.seek(place, offset)
        except BaseException:
            await consumer.stop()
            raise
        self._partitions = partitions.stop
        self._readers.append((consumer, asyncio.create_task(self._read(consumer), name=f"read {self.topic}")))

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                batches = await consumer.getmany(timeout_ms=60_000, max_records=2_000)
            except KafkaError as error:
                # Brokers come back; positions are kept, so nothing is missed.
                log.warning("reader_waits", topic=self.topic, error=str(error) or type(error).__name__)
                await asyncio.sleep(1.0)
                continue
            for batch in batches.values():
                values: Sequence[bytes | None] = [record.value for record in batch]
                if any_sealed(values):
                    values = await self._open([(record.key, record.value) for record in batch])
                for record, value in zip(batch, values, strict=True):
                    self._deliver(record.key, value)

    async def _open(self, records: Sequence[KeyAndValue]) -> Sequence[bytes | None]:
        """As soon as their keys can be had: until then they can't be read here, nor by a worker that would go on."""
        while True:
            try:
                return await self._opened(records)
            except StoreError as error:
                log.warning("reader_waits", topic=self.topic, error=str(error))
                await asyncio.sleep(1.0)
