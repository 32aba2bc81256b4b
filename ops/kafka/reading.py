"""Reading what a topic holds now, without a consumer group."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from store.errors import StoreError
from store.seals import NO_KEYS, Seals
from workers.errors import PartitionUnreadable

_SILENCE_SECONDS = 30.0
_POLL_MS = 1_000

Spans = dict[TopicPartition, tuple[int, int]]
"""Per partition where to begin and where to end."""


@asynccontextmanager
async def span_reader(
    connection: KafkaConnection, *, seals: Seals = NO_KEYS, what: str = "Kafka"
) -> AsyncIterator[AIOKafkaConsumer]:
    """A started `KafkaConnection.span_reader`, for the block. `what` is what an error says can't be read.

    What it reads is opened; a value that is still sealed (`schemas.sealed`) was erased.

    Raises:
        OpsError: no broker answers; also for what Kafka refuses inside the block.
    """
    async with _started(connection, connection.span_reader(seals=seals), what) as consumer:
        yield consumer


@asynccontextmanager
async def started_reader(connection: KafkaConnection, what: str = "Kafka") -> AsyncIterator[AIOKafkaConsumer]:
    """As `span_reader`, but what it reads is as it stands in the topic."""
    async with _started(connection, connection.span_reader(), what) as consumer:
        yield consumer


@asynccontextmanager
async def _started(
    connection: KafkaConnection, consumer: AIOKafkaConsumer, what: str
) -> AsyncIterator[AIOKafkaConsumer]:
    try:
        await consumer.start()
        yield consumer
    except (PartitionUnreadable, StoreError) as error:
        raise OpsError(f"{what} can't be read: {error}") from error
    except KafkaError as error:
        raise OpsError(f"{what} at {connection.bootstrap_servers} can't be read: {error}") from error
    finally:
        await consumer.stop()


async def whole_topic(consumer: AIOKafkaConsumer, topic: str) -> Spans:
    """The topic as it is now. Raises OpsError when there is none."""
    # Listing all topics creates none, where asking for one by name may.
    if topic not in await consumer.topics():
        raise OpsError(f"Topic {topic} is not there: supportstream topics create")
    # A consumer knows the partitions of what it is assigned to, once it had to ask about them.
    first = TopicPartition(topic, 0)
    consumer.assign([first])
    await consumer.end_offsets([first])
    places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or {0}]
    begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    return {place: (begins[place], ends[place]) for place in places}


async def between(consumer: AIOKafkaConsumer, spans: Spans, since: datetime | None, until: datetime | None) -> Spans:
    """The part of `spans` from the first record of `since` or later up to the first of `until` or later, by the time
    that Kafka has of them; None: no limit."""
    begins = {place: begin for place, (begin, _) in spans.items()}
    ends = {place: end for place, (_, end) in spans.items()}
    if since is not None:
        begins = await _at_time(consumer, since, ends)
    if until is not None:
        ends = await _at_time(consumer, until, ends)
    return {place: (max(begins[place], begin), min(ends[place], end)) for place, (begin, end) in spans.items()}


async def _at_time(
    consumer: AIOKafkaConsumer, when: datetime, ends: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    at_ms = max(0, int(when.timestamp() * 1000))
    found = await consumer.offsets_for_times(dict.fromkeys(ends, at_ms))
    # None: nothing in the partition is as new.
    return {place: found[place].offset if found.get(place) else end for place, end in ends.items()}


async def read_spans(
    consumer: AIOKafkaConsumer, spans: Mapping[TopicPartition, tuple[int, int]], *, max_records: int
) -> AsyncIterator[tuple[dict[TopicPartition, list[Any]], dict[TopicPartition, int]]]:
    """The records of the spans, each partition's in order, at most `max_records` at once; and per partition before
    which offset all has been handed out then.

    Raises:
        OpsError: the broker fell silent.
    """
    left = {place: end for place, (begin, end) in spans.items() if begin < end}
    if not left:
        return
    consumer.assign(list(left))
    for place in left:
        consumer.seek(place, spans[place][0])
    heard = time.monotonic()
    while left:
        batches = await consumer.getmany(*left, timeout_ms=_POLL_MS, max_records=max_records)
        if batches:
            heard = time.monotonic()
        elif time.monotonic() > heard + _SILENCE_SECONDS:
            raise OpsError(f"Kafka sent nothing of {', '.join(map(str, left))} for {_SILENCE_SECONDS:g} s.")
        reached = {place: min(await consumer.position(place), end) for place, end in left.items()}
        yield (
            {
                place: records if records[-1].offset < left[place] else [r for r in records if r.offset < left[place]]
                for place, records in batches.items()
            },
            reached,
        )
        left = {place: end for place, end in left.items() if reached[place] < end}
