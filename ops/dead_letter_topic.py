"""Reading the dead letter topic: all of its partitions, without a group, to the end as it was when it was opened."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from ops.dead_letters import CLOCK_SLACK, DeadLetter, NotADeadLetter, Place, decode_dead_letter
from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.reading import span_reader, started_reader, whole_topic
from store.seals import Seals

Advance = Callable[[int, int], None]
"""Takes how many records were read, and of how many."""

_SILENCE_SECONDS = 30.0


class DeadLetterTopic:
    """One look at the topic; `open_dead_letters` makes it."""

    def __init__(self, consumer: AIOKafkaConsumer, begins: Mapping[int, int], ends: Mapping[int, int], name: str):
        self._consumer = consumer
        self._begins = begins
        self._ends = ends
        self._name = name
        self.strangers = 0
        """How many records of the last `read` are no dead letters."""

    async def read(self, since: datetime | None, advance: Advance) -> AsyncIterator[DeadLetter]:
        """Every dead letter, one partition after the other, each in order. What failed before `since` may be missing.

        Raises:
            OpsError: the broker fell silent.
        """
        begins = await self._begins_at(since)
        total = sum(max(0, self._ends[partition] - begin) for partition, begin in begins.items())
        done = self.strangers = 0
        for partition, begin in sorted(begins.items()):
            async for record in self._records(partition, begin, self._ends[partition]):
                done += 1
                advance(done, total)
                try:
                    yield decode_dead_letter(record)
                except NotADeadLetter:
                    self.strangers += 1

    async def at(self, place: Place) -> DeadLetter:
        """Raises OpsError where none stands."""
        if self._begins.get(place.partition, 0) <= place.offset < self._ends.get(place.partition, 0):
            async for record in self._records(place.partition, place.offset, place.offset + 1):
                try:
                    return decode_dead_letter(record)
                except NotADeadLetter as error:
                    raise OpsError(str(error)) from error
        raise OpsError(f"There is no dead letter at {place}; see: supportstream dlq list")

    async def _begins_at(self, since: datetime | None) -> Mapping[int, int]:
        if since is None:
            return self._begins
        at_ms = max(0, int((since - CLOCK_SLACK).timestamp() * 1000))
        found = await self._consumer.offsets_for_times(
            {TopicPartition(self._name, partition): at_ms for partition in self._begins}
        )
        # None: nothing in the partition is as new.
        return {place.partition: at.offset if at else self._ends[place.partition] for place, at in found.items()}

    async def _records(self, partition: int, begin: int, end: int) -> AsyncIterator[ConsumerRecord]:
        if begin >= end:
            return
        place = TopicPartition(self._name, partition)
        self._consumer.assign([place])
        self._consumer.seek(place, begin)
        heard = time.monotonic()
        while await self._consumer.position(place) < end:
            batches = await self._consumer.getmany(place, timeout_ms=1_000, max_records=500)
            for record in batches.get(place, []):
                if record.offset < end:
                    yield record
            if batches:
                heard = time.monotonic()
            elif time.monotonic() > heard + _SILENCE_SECONDS:
                raise OpsError(f"Kafka sent nothing of {self._name} for {_SILENCE_SECONDS:g} s.")


@asynccontextmanager
async def open_dead_letters(
    connection: KafkaConnection, seals: Seals | None, topic: str
) -> AsyncIterator[DeadLetterTopic]:
    """The topic `topic` as it is now. `seals` None: with values as they stand in it.

    Raises:
        OpsError: no broker answers, or there is no such topic; also for what fails inside the block.
    """
    opened = span_reader(connection, seals=seals, what=topic) if seals else started_reader(connection, topic)
    async with opened as consumer:
        spans = await whole_topic(consumer, topic)
        begins = {place.partition: begin for place, (begin, _) in spans.items()}
        ends = {place.partition: end for place, (_, end) in spans.items()}
        yield DeadLetterTopic(consumer, begins, ends, topic)
