"""The consumer loop: polls, and hands on each partition's records in order, without a gap that was seen only once.

Two rules keep it simple. A poll that raises has taken nothing (`ops.kafka.screened_consumer`), so polling again is
always right. And a partition is read on only where its cursor stands, so a record that is dropped here is read again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError

from store.outage import Outage, describe
from workers.cursors import Cursor, LogWentBack
from workers.errors import LogCut, PartitionUnreadable
from workers.records import KafkaRecord, Partition

log = structlog.get_logger(__name__)

POLL_MS = 500
"""How long a poll waits for records. The loop comes by at least this often."""
ALONE_MS = 50
"""How long one partition is waited for while each is polled on its own."""
FAILURES_IN_A_ROW = 3
"""After so many failed polls in a row each partition is polled on its own, to find the one that fails."""
PAUSE_SECONDS = 1.0
"""Between failed polls."""
TRY_AGAIN_SECONDS = 10.0
"""How soon a partition that can't be read is tried again."""


class PolledConsumer(Protocol):
    """What the loop asks of the Kafka consumer."""

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int | None
    ) -> dict[TopicPartition, list[Any]]:
        """Raises anything; then nothing was taken."""
        ...

    def assignment(self) -> set[TopicPartition]: ...

    def paused(self) -> set[TopicPartition]: ...

    def pause(self, *partitions: TopicPartition) -> None: ...

    def resume(self, *partitions: TopicPartition) -> None: ...

    def seek(self, partition: TopicPartition, offset: int) -> None: ...


class PollObserver(Protocol):
    def partition_unreadable(self, topic: str, partition: int, unreadable: bool) -> None: ...

    def poll_failed(self) -> None: ...


class RecordLoop:
    """Reads the partitions that have a cursor. `accept` takes proven records and must neither wait nor raise; `refuse`
    is told of a partition whose log is not the one that was read so far."""

    def __init__(
        self,
        consumer: Callable[[], PolledConsumer],
        *,
        accept: Callable[[Sequence[KafkaRecord]], None],
        refuse: Callable[[Partition, Exception], None],
        observer: PollObserver,
        max_records: int,
        is_fatal: Callable[[Exception], bool] = lambda error: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`is_fatal`: errors after which no poll can succeed; `run` raises them."""
        self._current = consumer
        self._accept = accept
        self._refuse = refuse
        self._observer = observer
        self._max_records = max_records
        self._is_fatal = is_fatal
        self._clock = clock
        self._sleep = sleep
        self._cursors: dict[Partition, Cursor] = {}
        self._held: set[Partition] = set()
        """Partitions that the dispatcher wants no records of."""
        self._try_again_at: dict[Partition, float] = {}
        self._outage = Outage(clock=clock)
        self._failures = 0
        self._last_error: str | None = None
        self.unreadable: dict[Partition, str] = {}
        """Partitions of which the next record can't be read, and why; for readiness."""
        self.polled_at = clock()
        """When a poll ended last, whether it brought records or not."""

    @property
    def failing(self) -> str | None:
        """Why polls fail at the moment."""
        return self._last_error if self._failures else None

    def start(self, partition: Partition, offset: int) -> None:
        """From now on `partition` is read from `offset`, as soon as it is resumed."""
        self._cursors[partition] = Cursor(offset)
        self._seek(partition, offset)

    def forget(self, partition: Partition) -> None:
        """The partition is not assigned any more."""
        self._cursors.pop(partition, None)
        if self.unreadable.pop(partition, None) is not None:
            self._observer.partition_unreadable(*partition, False)
        self._try_again_at.pop(partition, None)
        self._held.discard(partition)

    def hold(self, partition: Partition) -> None:
        """Pauses a partition that is assigned; of no effect on another."""
        self._held.add(partition)
        self._pause(partition)

    def release(self, partition: Partition) -> None:
        """Ends `hold`."""
        self._held.discard(partition)
        if partition not in self.unreadable:
            self._resume(partition)

    def next_offset(self, partition: Partition) -> int | None:
        """The first offset that was not handed on; None while the partition is not read."""
        cursor = self._cursors.get(partition)
        return cursor.next if cursor else None

    async def run(self) -> None:
        """Polls until the consumer is stopped. Raises what `is_fatal` says."""
        while True:
            try:
                await (self._poll_together() if self._failures < FAILURES_IN_A_ROW else self._poll_alone())
            except ConsumerStoppedError:
                return
            except PartitionUnreadable as error:
                self._set_aside(error)
                continue
            except Exception as error:
                if self._is_fatal(error):
                    raise
                await self._failed(error)
                continue
            self._succeeded()
            self._retry_unreadable()

    async def _poll_together(self) -> None:
        batches = await self._current().getmany(timeout_ms=POLL_MS, max_records=self._max_records)
        for place, records in batches.items():
            self._hand_on(Partition(*place), records)

    async def _poll_alone(self) -> None:
        """Polls each partition by itself. One that fails alone is set aside; where all do, it is not the partitions."""
        consumer = self._current()
        places = sorted(consumer.assignment() - consumer.paused())
        if not places:
            await self._poll_together()
            return
        failed: dict[TopicPartition, Exception] = {}
        for place in places:
            try:
                batches = await consumer.getmany(place, timeout_ms=ALONE_MS, max_records=self._max_records)
            except (ConsumerStoppedError, PartitionUnreadable):
                raise
            except Exception as error:
                if self._is_fatal(error):
                    raise
                failed[place] = error
            else:
                for records in batches.values():
                    self._hand_on(Partition(*place), records)
        if len(failed) == len(places) > 1:
            raise failed[places[0]]
        for (topic, number), failure in failed.items():
            offset = self.next_offset(Partition(topic, number))
            self._set_aside(PartitionUnreadable(topic, number, -1 if offset is None else offset, describe(failure)))

    def _hand_on(self, partition: Partition, records: Sequence[KafkaRecord]) -> None:
        cursor = self._cursors.get(partition)
        if cursor is None or not records:
            # Not ours to read yet: it will be sought, and read again.
            return
        try:
            passed = cursor.take(records)
        except LogWentBack as error:
            self._refuse(partition, LogCut(*partition, str(error)))
            return
        self._readable(partition)
        if passed.appeared:
            log.error("records_appeared_in_a_gap", partition=str(partition), count=passed.appeared)
        if passed.read_again_from is not None:
            self._seek(partition, passed.read_again_from)
        if not passed.records:
            return
        try:
            self._accept(passed.records)
        except Exception as error:
            # Not skipped: the partition is let go, and read again from its committed offset when it is prepared anew.
            log.exception("records_not_accepted", partition=str(partition))
            self._refuse(partition, error)

    def _set_aside(self, error: PartitionUnreadable) -> None:
        """Pauses a partition that can't be read, so that the others can."""
        partition = Partition(error.topic, error.partition)
        if partition not in self.unreadable:
            log.error("partition_unreadable", partition=str(partition), offset=error.offset, reason=error.reason)
            self._observer.partition_unreadable(*partition, True)
        self.unreadable[partition] = str(error)
        self._try_again_at[partition] = self._clock() + TRY_AGAIN_SECONDS
        self._pause(partition)

    def _retry_unreadable(self) -> None:
        """Resumes partitions that were set aside a while ago. They count as unreadable until a record is read."""
        now = self._clock()
        for partition, at in list(self._try_again_at.items()):
            if now >= at:
                self._try_again_at[partition] = now + TRY_AGAIN_SECONDS
                if partition not in self._held:
                    self._resume(partition)

    def _readable(self, partition: Partition) -> None:
        if self.unreadable.pop(partition, None) is not None:
            self._try_again_at.pop(partition, None)
            self._observer.partition_unreadable(*partition, False)
            log.info("partition_readable_again", partition=str(partition))

    async def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._last_error = describe(error)
        self._observer.poll_failed()
        if self._outage.failed():
            log.error("poll_failed", error=self._last_error, seconds=round(self._outage.seconds, 1), exc_info=error)
        await self._sleep(PAUSE_SECONDS)

    def _succeeded(self) -> None:
        self.polled_at = self._clock()
        self._failures = 0
        if (lasted := self._outage.ended()) is not None:
            log.warning("polling_again", after_seconds=round(lasted, 1))

    def _seek(self, partition: Partition, offset: int) -> None:
        if (place := self._assigned(partition)) is not None:
            self._current().seek(place, offset)

    def _pause(self, partition: Partition) -> None:
        if (place := self._assigned(partition)) is not None:
            self._current().pause(place)

    def _resume(self, partition: Partition) -> None:
        if (place := self._assigned(partition)) is not None:
            self._current().resume(place)

    def _assigned(self, partition: Partition) -> TopicPartition | None:
        place = TopicPartition(*partition)
        return place if place in self._current().assignment() else None
