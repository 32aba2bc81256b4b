"""The worker as a FastStream application: a batch subscriber with manual acks that feeds the dispatcher.

FastStream's own per-message handling is too slow for the hot path and acknowledges too early, so its handler only
hands the raw batch on; commits, pauses and seeks go straight to the aiokafka consumer underneath.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import FAKE_CONSUMER
from faststream.security import BaseSecurity

from workers.dispatch import Dispatcher
from workers.polling import SalvagingPoll
from workers.records import Partition

log = structlog.get_logger(__name__)

NEVER_MS = 365 * 24 * 3600 * 1000
"""FastStream sleeps for the poll timeout after an empty poll; so a poll must not end empty."""


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """Membership in the consumer group. Times in ms."""

    bootstrap_servers: str
    topics: tuple[str, ...]
    group_id: str
    instance_id: str | None = None
    """Static membership: a restart within the session timeout moves no partitions."""
    client_id: str = "supportstream-worker"
    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 3_000
    rebalance_timeout_ms: int = 60_000
    max_poll_interval_ms: int = 300_000
    fetch_max_wait_ms: int = 500
    metadata_max_age_ms: int = 10_000
    """How soon added partitions are noticed, and divided among the members."""
    max_records: int = 250
    security: BaseSecurity | None = None
    connection: dict[str, Any] = field(default_factory=dict)


class SubscribedConsumer:
    """The aiokafka consumer below a FastStream subscriber, as `workers.rights.Consumer`."""

    def __init__(self, consumer: Callable[[], AIOKafkaConsumer | None]) -> None:
        self._current = consumer

    async def commit(self, offsets: dict[Partition, int]) -> None:
        await self._consumer.commit({TopicPartition(*partition): offset for partition, offset in offsets.items()})

    async def committed_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        found = {partition: await self._consumer.committed(TopicPartition(*partition)) for partition in partitions}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    async def restart_from_committed(self, partition: Partition) -> None:
        place = TopicPartition(*partition)
        offset = await self._consumer.committed(place)
        if offset is None:
            offset = (await self._consumer.beginning_offsets([place]))[place]
        self._consumer.seek(place, offset)

    async def log_begin(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        begins = await self._consumer.beginning_offsets([TopicPartition(*partition) for partition in partitions])
        return {Partition(*place): offset for place, offset in begins.items()}

    async def log_end(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        ends = await self._consumer.end_offsets([TopicPartition(*partition) for partition in partitions])
        return {Partition(*place): offset for place, offset in ends.items()}

    def pause(self, partition: Partition) -> None:
        if (place := TopicPartition(*partition)) in self._consumer.assignment():
            self._consumer.pause(place)

    def resume(self, partition: Partition) -> None:
        if (place := TopicPartition(*partition)) in self._consumer.assignment():
            self._consumer.resume(place)

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        consumer = self._current()
        if consumer is None:
            raise RuntimeError("the consumer is not started")
        return consumer


class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Tells the dispatcher what it owns. The callbacks return soon: heartbeats pause while they run."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._dispatcher.revoked(Partition(*place) for place in revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._dispatcher.assigned(Partition(*place) for place in assigned)


def broker_for(settings: GroupSettings) -> KafkaBroker:
    """FastStream's broker, for consuming only; our publisher sends."""
    return KafkaBroker(
        # FastStream takes a string for the address of one broker.
        [server.strip() for server in settings.bootstrap_servers.split(",")],
        client_id=settings.client_id,
        metadata_max_age_ms=settings.metadata_max_age_ms,
        consumer_only=True,
        allow_auto_create_topics=False,
        apply_types=False,
        logger=None,
        security=settings.security,
        **settings.connection,
    )


class WorkerApp:
    """One member of the consumer group."""

    def __init__(self, settings: GroupSettings) -> None:
        self._broker = broker_for(settings)
        self._settings = settings
        self._subscriber: Any = None
        self._committing: asyncio.Task[None] | None = None
        self._dispatcher: Dispatcher | None = None
        self.consumer = SubscribedConsumer(lambda: self._subscriber.consumer if self._subscriber else None)
        self.app = FastStream(self._broker, logger=None)

    async def start(self, dispatcher: Dispatcher) -> None:
        """Joins the group and begins to take records."""
        self._dispatcher = dispatcher
        settings = self._settings
        self._subscriber = self._broker.subscriber(
            *settings.topics,
            batch=True,
            ack_policy=AckPolicy.MANUAL,
            group_id=settings.group_id,
            group_instance_id=settings.instance_id,
            auto_offset_reset="earliest",
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_interval_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            max_poll_interval_ms=settings.max_poll_interval_ms,
            fetch_max_wait_ms=settings.fetch_max_wait_ms,
            max_records=settings.max_records,
            batch_timeout_ms=NEVER_MS,
            listener=Rebalances(dispatcher),
            parser=_undecoded,
            decoder=_raw,
            no_reply=True,
        )

        @self._subscriber  # type: ignore[untyped-decorator]
        async def accept_batch(records: tuple[Any, ...]) -> None:
            # Must not wait: a batch taken before a revocation has to be in the lanes before it.
            try:
                dispatcher.accept(records)
            except Exception as error:
                # FastStream would swallow it, and the records with it.
                log.exception("batch_not_accepted")
                dispatcher.refuse({Partition(record.topic, record.partition) for record in records}, error)

        await self.app.start()
        # Nothing was polled yet: the poll loop is a task that has not run since it was made.
        consumer = self._subscriber.consumer
        poll = SalvagingPoll(consumer, dispatcher.next_offset, self.consumer.restart_from_committed)
        consumer.getmany = poll.getmany
        self._committing = asyncio.create_task(dispatcher.commit_regularly(), name="commit-regularly")

    async def stop(self) -> None:
        """Stops taking, drains, commits, leaves the group."""
        if self._dispatcher is not None:
            await self._dispatcher.stop()
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.wait([self._committing])
        await self.app.stop()


async def _undecoded(batch: Any, original: Any) -> KafkaMessage:
    """The batch as a FastStream message whose content nobody touched: a header that is no UTF-8 must fail its own
    record, in its lane, not the batch that it came in."""
    return KafkaMessage(raw_message=batch, body=b"", consumer=FAKE_CONSUMER, correlation_id="", message_id="")


async def _raw(message: KafkaMessage, original: Any) -> Any:
    return message.raw_message
