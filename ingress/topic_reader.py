"""The reader of the reply or delta topic: every ingress process reads all partitions, for any may hold the socket."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from ingress.backoff import Backoff
from ingress.fetch_loop import FetchLoop, LoopTimes, MakeConsumer, Offsets
from ingress.refusals import RecordRefused, RefusalReason, refusal_reason
from schemas.sealed import any_sealed
from store.errors import StoreError
from store.outage import Outage, describe

log = structlog.get_logger(__name__)

Deliver = Callable[[bytes | None, bytes | None], None]
"""Takes a record's key and value without waiting. May raise anything, best RecordRefused: that costs this record."""
KeyAndValue = tuple[bytes | None, bytes | None]
Opened = Callable[[Sequence[KeyAndValue]], Awaitable[Sequence[bytes | None]]]
"""The values of records, of which some are sealed, opened where a subscriber waits for them. May raise StoreError."""
LogEnds = Callable[[str, Collection[int]], Awaitable[Mapping[int, int]]]
"""Where the logs of a topic's partitions end, asked over a connection of its own."""

STALLED_SECONDS = 30.0
"""A partition with unread records that gave none for so long makes the process not ready."""
OPENING_ATTEMPTS = 3
"""How often a record is opened alone before it is refused, when the error is not that a key can't be had now."""


class ReaderStalled(Exception):
    """Records of a topic wait and are not read."""


class ReaderObserver(Protocol):
    def record_refused(self, topic: str, reason: RefusalReason) -> None: ...

    def reader_replaced(self, topic: str) -> None: ...


class TopicReader:
    """Reads from the end of the topic as it was at `start`: what was before, the store has. Partitions that are added
    later are read from their beginning.

    A record that can't be delivered is refused: logged once with its place, counted, and passed over.
    """

    def __init__(
        self,
        make_consumer: MakeConsumer,
        topic: str,
        opened: Opened,
        deliver: Sequence[Deliver],
        *,
        log_ends: LogEnds,
        observer: ReaderObserver,
        times: LoopTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Each of `deliver` gets every record, also where another one raised."""
        self.topic = topic
        self._opened = opened
        self._make_consumer = make_consumer
        self._deliver = tuple(deliver)
        self._log_ends = log_ends
        self._observer = observer
        self._times = times or LoopTimes()
        self._clock = clock
        self._partitions = 0
        self._loops: list[FetchLoop] = []

    async def start(self, partitions: int) -> None:
        """Returns when every record that is published from now on will be delivered. Raises what the client raises,
        mostly KafkaError."""
        await self._read_from(range(partitions), _ends)

    async def extend(self, partitions: int) -> None:
        """The topic has so many partitions now. Raises as `start`; then it is to be called again."""
        if partitions > self._partitions:
            log.info("partitions_added", topic=self.topic, before=self._partitions, now=partitions)
            # Another consumer: to assign more to the first would interrupt it.
            await self._read_from(range(self._partitions, partitions), _beginnings)

    @property
    def running(self) -> bool:
        """For liveness: whether the reader's tasks are alive. They end with the process only."""
        return bool(self._loops) and all(loop.running for loop in self._loops)

    async def check(self) -> None:
        """For readiness. Costs nothing while records come, or the log's end was seen, within `STALLED_SECONDS`.

        Raises:
            ReaderStalled: no record came for so long, though some wait, or it can't be learnt whether any do.
        """
        for loop in self._loops:
            if loop.progress.quiet_seconds(self._clock()) < STALLED_SECONDS:
                continue
            try:
                ends = await self._log_ends(self.topic, loop.progress.positions.keys())
            except Exception as error:
                raise ReaderStalled(f"{self.topic} is not read: {loop.last_error or describe(error)}") from error
            if unread := loop.progress.unread(ends, self._clock(), STALLED_SECONDS):
                partitions = ", ".join(map(str, sorted(unread)))
                raise ReaderStalled(
                    f"{sum(unread.values())} records of {self.topic} (partitions {partitions}) wait, and none was read "
                    f"for {STALLED_SECONDS:g} s: {loop.last_error or 'the broker sends nothing'}"
                )

    async def stop(self) -> None:
        for loop in self._loops:
            await loop.stop()

    async def _read_from(self, partitions: range, offsets_of: Offsets) -> None:
        def replaced() -> None:
            self._observer.reader_replaced(self.topic)

        loop = FetchLoop(self.topic, self._make_consumer, self._take, replaced, self._times, self._clock)
        await loop.start(partitions, offsets_of)
        self._partitions = partitions.stop
        self._loops.append(loop)

    async def _take(self, records: Sequence[ConsumerRecord]) -> None:
        values: Sequence[bytes | None] = [record.value for record in records]
        if any_sealed(values):
            values = await self._opened_values(records)
        for record, value in zip(records, values, strict=True):
            for deliver in self._deliver:
                try:
                    deliver(record.key, value)
                except (Exception, asyncio.CancelledError) as error:
                    # Nothing was awaited: a CancelledError here is the subscriber's, too.
                    self._refuse(record, error)

    def _refuse(self, record: ConsumerRecord, error: BaseException) -> None:
        reason = refusal_reason(error)
        log.error(
            "record_refused",
            topic=self.topic,
            partition=record.partition,
            offset=record.offset,
            key=(record.key or b"").decode(errors="replace"),
            reason=reason,
            error=describe(error.__cause__ or error),
            exc_info=error if reason in ("internal_error", "subscriber_failed") else None,
        )
        self._observer.record_refused(self.topic, reason)

    async def _opened_values(self, records: Sequence[ConsumerRecord]) -> Sequence[bytes | None]:
        """As soon as their keys can be had: until then they can't be read here, nor by a worker that would go on."""
        keys = self._keys()
        while True:
            try:
                values = await self._opened([(record.key, record.value) for record in records])
            except StoreError as error:
                await keys.wait(error)
            except Exception:
                return [await self._opened_alone(record) for record in records]
            else:
                keys.are_there()
                return values

    async def _opened_alone(self, record: ConsumerRecord) -> bytes | None:
        """The record's value; None where it can't be opened for a reason of its own."""
        keys, attempts = self._keys(), 0
        while True:
            try:
                (value,) = await self._opened([(record.key, record.value)])
            except StoreError as error:
                await keys.wait(error)
            except Exception as error:
                attempts += 1
                if attempts == OPENING_ATTEMPTS:
                    refusal = RecordRefused("not_opened", "it can't be opened")
                    refusal.__cause__ = error
                    self._refuse(record, refusal)
                    return None
                await asyncio.sleep(self._times.first_wait)
            else:
                keys.are_there()
                return value

    def _keys(self) -> "_KeysAway":
        return _KeysAway(self.topic, self._times, self._clock)


class _KeysAway:
    """Waits while the keys of sealed records can't be had."""

    def __init__(self, topic: str, times: LoopTimes, clock: Callable[[], float]) -> None:
        self._topic = topic
        self._outage = Outage(remind_seconds=times.remind, clock=clock)
        self._backoff = Backoff(first_seconds=times.first_wait, longest_seconds=times.longest_wait)

    async def wait(self, error: StoreError) -> None:
        wait = self._backoff.failed()
        if self._outage.failed():
            log.warning("reader_waits", topic=self._topic, error=describe(error), failures=self._backoff.failures)
        await asyncio.sleep(wait)

    def are_there(self) -> None:
        if (lasted := self._outage.ended()) is not None:
            log.warning("reader_goes_on", topic=self._topic, seconds=round(lasted, 1))


async def _ends(consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> Mapping[TopicPartition, int]:
    ends: Mapping[TopicPartition, int] = await consumer.end_offsets(places)
    return ends


async def _beginnings(consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> Mapping[TopicPartition, int]:
    begins: Mapping[TopicPartition, int] = await consumer.beginning_offsets(places)
    return begins
