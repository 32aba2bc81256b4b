"""The loop that fetches some partitions of a topic for as long as the process lives."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from ingress.backoff import Backoff
from ingress.progress import Progress
from store.outage import Outage, describe, is_cancelled

log = structlog.get_logger(__name__)

MakeConsumer = Callable[[], AIOKafkaConsumer]
Take = Callable[[Sequence[ConsumerRecord]], Awaitable[None]]
"""Takes the records of one partition, in order. Raises nothing that belongs to a single record."""
Offsets = Callable[[AIOKafkaConsumer, list[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]]


class NothingFetched(Exception):
    """For too long the consumer gave no record, and a look at the log did not show that none was there."""


@dataclass(frozen=True, slots=True)
class LoopTimes:
    """Seconds."""

    poll: float = 1.0
    """How long a fetch waits for records before the loop looks at itself."""
    look: float = 3.0
    """How often the log's end is compared with the position of a partition that is quiet for as long."""
    patience: float = 10.0
    """After so long without a record, and without a look that finds none, the consumer is replaced. Doubles with every
    replacement up to a minute, so that one partition without a leader doesn't disturb the others for ever."""
    connect: float = 15.0
    """The bound on opening, asking and closing."""
    first_wait: float = 0.1
    longest_wait: float = 5.0
    remind: float = 60.0


LONGEST_PATIENCE_SECONDS = 60.0


class FetchLoop:
    """Hands every record of its partitions to `take`, once and in each partition's order.

    It keeps the positions itself. After any exception, of any type, it goes on with a fresh consumer from there: an
    aiokafka consumer that raised may have moved past records that it did not return.
    """

    def __init__(
        self,
        topic: str,
        make_consumer: MakeConsumer,
        take: Take,
        replaced: Callable[[], None],
        times: LoopTimes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`replaced` hears of every consumer that is given up."""
        self._topic = topic
        self._make_consumer = make_consumer
        self._take = take
        self._replaced = replaced
        self._times = times
        self._clock = clock
        self._outage = Outage(remind_seconds=times.remind, clock=clock)
        self._backoff = Backoff(first_seconds=times.first_wait, longest_seconds=times.longest_wait)
        self._progress = Progress({}, clock())
        self._consumer: AIOKafkaConsumer | None = None
        self._patience = times.patience
        self._patient_since = 0.0
        self._failed_at = clock()
        self._taking = False
        self._tasks: list[asyncio.Task[None]] = []
        self.last_error = ""
        """Why nothing is fetched at the moment; empty: it is."""

    @property
    def progress(self) -> Progress:
        return self._progress

    @property
    def running(self) -> bool:
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def start(self, partitions: Collection[int], offsets_of: Offsets) -> None:
        """Returns when every record from `offsets_of` on will be taken. Raises what the consumer raises."""
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        consumer = self._make_consumer()
        try:
            await consumer.start()
            consumer.assign(places)
            offsets = await offsets_of(consumer, places)
            for place in places:
                consumer.seek(place, offsets[place])
        except BaseException:
            await self._close(consumer)
            raise
        self._progress = Progress({place.partition: offsets[place] for place in places}, self._clock())
        self._patient_since = self._clock()
        self._consumer = consumer
        for work, name in ((self._run(), "read"), (self._watch(), "watch")):
            self._tasks.append(asyncio.create_task(work, name=f"{name} {self._topic}"))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._consumer is not None:
            await self._close(self._consumer)

    async def _run(self) -> None:
        while True:
            try:
                await self._fetch()
            except asyncio.CancelledError as error:
                if is_cancelled():
                    raise
                # A library's own task was cancelled, not this one.
                await self._give_up_consumer(error)
            except Exception as error:
                await self._give_up_consumer(error)

    async def _fetch(self) -> None:
        if self._consumer is None:
            self._consumer = await self._reopened()
        batches = await self._consumer.getmany(timeout_ms=int(self._times.poll * 1000), max_records=2_000)
        fetched_at = self._clock()
        self._taking = True
        try:
            for place, records in batches.items():
                await self._take(records)
                self._progress.read(place.partition, records[-1].offset + 1, self._clock())
        finally:
            self._taking = False
        now = self._clock()
        # The time that records took, as while their keys can't be had, is not the consumer's fault.
        self._patient_since += now - fetched_at
        quiet = self._progress.quiet_seconds(now)
        if quiet < now - self._failed_at:
            self._recovered()
        if quiet < self._times.patience:
            self._patience, self._patient_since = self._times.patience, now
        elif now - self._patient_since >= self._patience:
            raise NothingFetched(f"no record and no answer about the log's end for {self._patience:g} s")

    async def _reopened(self) -> AIOKafkaConsumer:
        """A fresh consumer that stands where the last one was when it was given up."""
        consumer = self._make_consumer()
        try:
            async with asyncio.timeout(self._times.connect):
                await consumer.start()
                positions = self._progress.positions
                consumer.assign([TopicPartition(self._topic, partition) for partition in positions])
                for partition, offset in positions.items():
                    consumer.seek(TopicPartition(self._topic, partition), offset)
        except BaseException:
            await self._close(consumer)
            raise
        self._patient_since = self._clock()
        return consumer

    async def _give_up_consumer(self, error: BaseException) -> None:
        self.last_error = describe(error)
        self._failed_at = self._clock()
        wait = self._backoff.failed()
        if self._outage.failed():
            log.warning(
                "reader_waits",
                topic=self._topic,
                error=self.last_error,
                failures=self._backoff.failures,
                seconds=round(self._outage.seconds, 1),
                # What a broker that is away leads to needs no traceback; any other type does.
                exc_info=None if isinstance(error, (KafkaError, OSError, NothingFetched)) else error,
            )
        self._replaced()
        self._patience = min(2 * self._patience, max(LONGEST_PATIENCE_SECONDS, self._times.patience))
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await self._close(consumer)
        await asyncio.sleep(wait)

    def _recovered(self) -> None:
        """Every partition was read, or seen to be read to its end, since the last failure."""
        self.last_error = ""
        self._backoff.succeeded()
        if (lasted := self._outage.ended()) is not None:
            log.warning("reader_goes_on", topic=self._topic, seconds=round(lasted, 1))

    async def _watch(self) -> None:
        """Compares positions with the log's end, beside the fetch: a fetch that waits must not wait for this."""
        while True:
            await asyncio.sleep(self._times.look)
            try:
                async with asyncio.timeout(self._times.connect):
                    await self._look()
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
            except Exception as error:
                # What it means is decided by the loop: nothing was seen, so its patience ends.
                log.debug("log_end_not_seen", topic=self._topic, error=describe(error))

    async def _look(self) -> None:
        consumer = self._consumer
        if consumer is None or self._progress.quiet_seconds(self._clock()) < self._times.look:
            return
        places = [TopicPartition(self._topic, partition) for partition in self._progress.positions]
        ends = await consumer.end_offsets(places)
        positions = {place.partition: await consumer.position(place) for place in places}
        # Records in hand are behind the consumer's position and not taken yet.
        if consumer is self._consumer and not self._taking:
            self._progress.looked(positions, {place.partition: ends[place] for place in places}, self._clock())

    async def _close(self, consumer: AIOKafkaConsumer) -> None:
        try:
            async with asyncio.timeout(self._times.connect):
                await consumer.stop()
        except asyncio.CancelledError:
            if is_cancelled():
                raise
        except Exception as error:
            log.debug("consumer_not_closed", topic=self._topic, error=describe(error))
