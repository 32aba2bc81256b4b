"""What ingress and workers ask of a Kafka producer; `ops.kafka.publisher` keeps it."""

from dataclasses import field
from typing import Protocol

from schemas.frozen import frozen


class PublishError(Exception):
    """A record was not acknowledged by Kafka. It may be in the log all the same: publish the same id again."""


class BrokerUnavailable(PublishError):
    """No acknowledgement in time. Try again later."""


class RecordTooLarge(PublishError):
    """The record is larger than the topic takes. Trying again won't help."""


@frozen()
class Record:
    """One record to publish. `partition` None lets the default partitioner (murmur2 of the key) choose."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    seal_for: str | None = None
    """The session whose content the value is: where session keys are on, it is sealed for that. None: it has none."""


@frozen()
class Position:
    """Where Kafka put a record."""

    topic: str
    partition: int
    offset: int


class Publisher(Protocol):
    async def publish(self, record: Record) -> Position:
        """Returns once all in-sync replicas have the record.

        Raises:
            RecordTooLarge: before anything was sent.
            BrokerUnavailable: not acknowledged within the publisher's time limit.
        """
        ...
