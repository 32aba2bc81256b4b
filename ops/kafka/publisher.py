"""The producer of a process: sizes checked before sending, every send bounded in time, replaced when it breaks."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RecordTooLargeError,
)
from aiokafka.structs import RecordMetadata

from schemas.publishing import BrokerUnavailable, Position, PublishError, Record, RecordTooLarge
from store.outage import is_cancelled

log = structlog.get_logger(__name__)

HEADROOM_BYTES = 64 * 1024
"""Only a value this near to the limit is measured with its key and headers."""
_WATCH_SECONDS = 0.25
"""How exactly the time limit of a send is kept. A timer for each would cost as much as sending."""


class KafkaPublisher:
    """Keeps the promises of `schemas.publishing.Publisher`.

    After a refused or expired batch an idempotent aiokafka producer may refuse everything that follows, so a failed
    send retires the producer: the next send starts a new one. Records that the old one still delivers are duplicates
    by id, which readers drop.
    """

    def __init__(
        self,
        make_producer: Callable[[], AIOKafkaProducer],
        *,
        timeout_seconds: float = 10.0,
        max_record_bytes: int = 1_048_576 - 4_096,
    ) -> None:
        self._make_producer = make_producer
        self._timeout = timeout_seconds
        self._max_record_bytes = max_record_bytes
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()
        self._deadlines: deque[tuple[float, asyncio.Future[RecordMetadata]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._clock = time.monotonic

    async def start(self) -> None:
        """Connects. Raises BrokerUnavailable when no broker answers in time."""
        await self._current()

    async def publish(self, record: Record) -> Position:
        size = len(record.value or b"")
        if size > self._max_record_bytes - HEADROOM_BYTES and (size := _size(record)) > self._max_record_bytes:
            raise RecordTooLarge(
                f"A record of {size} bytes for {record.topic} is over the limit of {self._max_record_bytes}."
            )
        producer = self._producer
        delivery: asyncio.Future[RecordMetadata] | None = None
        try:
            if producer is None:
                producer = await self._current()
            delivery = await producer.send(
                record.topic, record.value, record.key, record.partition, None, record.headers
            )
            self._watch(delivery)
            metadata = await delivery
        except asyncio.CancelledError:
            if delivery is None or not delivery.cancelled() or is_cancelled():
                raise
            self._retire(producer)
            raise BrokerUnavailable(f"Kafka did not take a record for {record.topic} in {self._timeout:g} s.") from None
        except (MessageSizeTooLargeError, RecordListTooLargeError, RecordTooLargeError) as error:
            self._retire(producer)
            raise RecordTooLarge(f"The broker refused a record of {size} bytes for {record.topic}.") from error
        except PublishError:
            raise
        except Exception as error:
            # The client raises AssertionError and TypeError, too, where its metadata is stale.
            self._retire(producer)
            raise BrokerUnavailable(f"Kafka did not take a record for {record.topic}: {_told(error)}") from error
        return Position(metadata.topic, metadata.partition, metadata.offset)

    async def partitions_of(self, topic: str) -> int:
        """How many partitions `topic` has now, also if some were just added.

        Raises:
            BrokerUnavailable: no broker answers, or there is no such topic.
        """
        producer = await self._current()
        try:
            async with asyncio.timeout(self._timeout):
                await producer.partitions_for(topic)
                await producer.client.force_metadata_update()
                return len(await producer.partitions_for(topic))
        except Exception as error:
            self._retire(producer)
            raise BrokerUnavailable(f"Topic {topic} is not there. Create it: supportstream topics create") from error

    async def check(self) -> None:
        """Raises BrokerUnavailable unless a broker answers now."""
        producer = await self._current()
        try:
            async with asyncio.timeout(self._timeout):
                answers = await producer.client.force_metadata_update()
        except Exception as error:
            self._retire(producer)
            raise BrokerUnavailable(f"No Kafka broker answers: {_told(error)}") from error
        if not answers:
            raise BrokerUnavailable("No Kafka broker answers.")

    async def settle(self) -> None:
        """Returns when everything that was sent, also by those who no longer wait for it, is acknowledged or refused;
        at the latest after the time limit."""
        try:
            async with asyncio.timeout(self._timeout):
                if self._producer is not None:
                    await self._producer.flush()
        except Exception as error:
            log.warning("publishing_not_settled", seconds=self._timeout, error=_told(error))
        if self._retired:
            await asyncio.wait(self._retired, timeout=self._timeout)

    async def close(self) -> None:
        """Delivers what is under way, within the time limit."""
        self._retire(self._producer)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._retired:
            await asyncio.wait(self._retired, timeout=self._timeout)

    def _watch(self, delivery: "asyncio.Future[RecordMetadata]") -> None:
        """Bounds the delivery in time. One timer for all: deadlines come in the order of sending."""
        self._deadlines.append((self._clock() + self._timeout, delivery))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._give_up_on_late)

    def _give_up_on_late(self) -> None:
        now = self._clock()
        while self._deadlines and (self._deadlines[0][1].done() or self._deadlines[0][0] <= now):
            # Cancelling doesn't unsend: the record may still arrive, as a duplicate of the one sent again.
            self._deadlines.popleft()[1].cancel()
        self._timer = None
        if self._deadlines:
            self._timer = asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._give_up_on_late)

    async def _current(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = self._make_producer()
                try:
                    async with asyncio.timeout(self._timeout):
                        await producer.start()
                except Exception as error:
                    await self._stop(producer)
                    raise BrokerUnavailable(f"Kafka does not answer: {_told(error)}") from error
                except BaseException:
                    await self._stop(producer)
                    raise
                self._producer = producer
            return self._producer

    def _retire(self, producer: AIOKafkaProducer | None) -> None:
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        task = asyncio.create_task(self._stop(producer), name="retired-producer")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _stop(self, producer: AIOKafkaProducer) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await producer.stop()
        except Exception as error:
            log.warning("producer_stop_failed", error=_told(error))


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__


def _size(record: Record) -> int:
    # The value of a header may be null.
    headers = sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
