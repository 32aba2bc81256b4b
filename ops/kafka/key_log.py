"""The keys topic, as `store.session_keys.KeyLog`."""

from collections.abc import AsyncIterator
from itertools import chain
from typing import Any

import structlog
from aiokafka import TopicPartition

from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.publisher import KafkaPublisher
from ops.kafka.reading import read_spans, started_reader, whole_topic
from schemas.publishing import Record
from schemas.session_keys import BEAT, decode_key, encode_key, key_name, parse_key_name
from store.errors import KeysUnavailable
from store.session_keys import KeyEntry

log = structlog.get_logger(__name__)

_BATCH_RECORDS = 2_000


class KafkaKeyLog:
    """Writes with `publisher`, which is closed by who made it."""

    def __init__(self, connection: KafkaConnection, publisher: KafkaPublisher, topic: str) -> None:
        self._connection = connection
        self._publisher = publisher
        self._topic = topic

    async def append(self, session_id: str, key_id: str, wrapped: bytes | None) -> int:
        value = None if wrapped is None else encode_key(session_id, key_id, wrapped)
        record = Record(self._topic, key_name(session_id, key_id).encode(), value, 0)
        return (await self._publisher.publish(record)).offset

    async def beat(self) -> None:
        """Writes something, as `schemas.session_keys.BEAT` says. Raises PublishError."""
        await self._publisher.publish(Record(self._topic, BEAT, b"{}", 0))

    async def exists(self) -> bool:
        """Whether there is such a topic. Raises KeysUnavailable."""
        try:
            async with started_reader(self._connection) as consumer:
                return self._topic in await consumer.topics()
        except OpsError as error:
            raise KeysUnavailable(str(error)) from error

    async def read(self, start: int) -> AsyncIterator[tuple[list[KeyEntry], int]]:
        place = TopicPartition(self._topic, 0)
        try:
            async with started_reader(self._connection) as consumer:
                begin, end = (await whole_topic(consumer, self._topic))[place]
                # A topic that ends earlier was created anew.
                start = begin if start > end else max(start, begin)
                async for batches, reached in read_spans(consumer, {place: (start, end)}, max_records=_BATCH_RECORDS):
                    records = chain.from_iterable(batches.values())
                    yield [entry for record in records if (entry := _entry(record)) is not None], reached[place]
                yield [], end
        except OpsError as error:
            raise KeysUnavailable(str(error)) from error


def _entry(record: Any) -> KeyEntry | None:
    if record.key == BEAT:
        return None
    try:
        session_id, key_id = parse_key_name(record.key or b"")
        wrapped = None if record.value is None else decode_key(record.value).wrapped_bytes
    except ValueError as error:  # pydantic's are, too
        log.error("session_key_unreadable", offset=record.offset, error=str(error))
        return None
    return KeyEntry(session_id, key_id, wrapped, record.offset)
