"""Dead letters as a worker writes them, read back from where they were put."""

import asyncio
from datetime import UTC, datetime

from aiokafka import ConsumerRecord

from ops.dead_letters import DeadLetter, Place, decode_dead_letter
from schemas.publishing import Position, Record
from schemas.topics import TopicNames
from store.protocol import Fence
from workers.dead_letters import DeadLetters
from workers.records import Assignment, Partition, take

TOPICS = TopicNames()
FAILED_AT = datetime(2026, 11, 24, 8, 30, 0, 250_000, tzinfo=UTC)
FIRST = Place(0, 0)


class Kept:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    async def publish(self, record: Record) -> Position:
        self.records.append(record)
        return Position(record.topic, record.partition or 0, len(self.records) - 1)


def consumed(record: Record, partition: int, offset: int) -> ConsumerRecord:
    """The record as a consumer has it."""
    return ConsumerRecord(
        record.topic, partition, offset, 0, 0, record.key, record.value, None, 0, 0, tuple(record.headers)
    )


def dead_letter_record(
    origin: Position,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes]],
    *,
    reason: str = "lock_timeout",
    error: str = "too late",
    attempts: int = 5,
) -> Record:
    """What the worker publishes for a record that stood at `origin`."""
    publisher = Kept()
    record = consumed(Record(origin.topic, key, value, headers=headers), origin.partition, origin.offset)
    partition = Partition(origin.topic, origin.partition)
    taken = take(record, Assignment(partition, 1, Fence("partition", 1), 0, origin.topic), 0.0)
    writing = DeadLetters(publisher, TOPICS.dlq).write(
        taken, reason=reason, error=error, attempts=attempts, failed_at="2026-11-24T08:30:00.250Z"
    )
    asyncio.run(writing)
    return publisher.records[0]


def dead_letter(
    origin: Position,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes]],
    *,
    place: Place = FIRST,
    reason: str = "lock_timeout",
) -> DeadLetter:
    record = dead_letter_record(origin, key, value, headers, reason=reason)
    return decode_dead_letter(consumed(record, place.partition, place.offset))
