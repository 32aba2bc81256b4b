"""The worker as a FastStream application.

FastStream makes the broker connection, the subscriber and its consumer, and ends them. What it does with records is not
used: it acknowledges too early, loses a batch in which one record can't be decoded, and is slow per message (decision
17). The subscriber has no handler, and `workers.polling.RecordLoop` reads its consumer.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity

from store.outage import Outage, describe, is_cancelled
from workers.dispatch import Dispatcher
from workers.polling import PollObserver, RecordLoop
from workers.progress import ProgressWatch, Sample
from workers.records import Partition

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""Between looks at how far the partitions are behind."""
LOOK_TIMEOUT_SECONDS = 4.0
STILL_SECONDS = 25.0
"""Records that wait so long without progress are a problem; with the time between looks it is said within 30 s."""
TRANSACTION_SECONDS = 10.0
"""A transaction that is open so long is told of."""
RESTARTS = 5
"""How often a background task that failed is started again, within `RESTARTS_SECONDS`, before the process ends."""
RESTARTS_SECONDS = 60.0
RESTART_PAUSE_SECONDS = 1.0


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
    consumer_class: type[AIOKafkaConsumer] = AIOKafkaConsumer
    """What reads: `getmany` must take nothing when it raises, and `log_ends` tell where logs end."""


class SubscribedConsumer:
    """The consumer below a FastStream subscriber, as `workers.rights.Consumer`; reading positions go to the loop."""

    def __init__(self, consumer: Callable[[], AIOKafkaConsumer], loop: Callable[[], RecordLoop]) -> None:
        self._current = consumer
        self._loop = loop

    async def commit(self, offsets: dict[Partition, int]) -> None:
        await self._current().commit({TopicPartition(*partition): offset for partition, offset in offsets.items()})

    async def committed_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        found = {partition: await self._current().committed(TopicPartition(*partition)) for partition in partitions}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    async def log_begin(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        begins = await self._current().beginning_offsets([TopicPartition(*partition) for partition in partitions])
        return {Partition(*place): offset for place, offset in begins.items()}

    async def log_end(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        ends = await self._current().log_ends([TopicPartition(*partition) for partition in partitions])
        return {Partition(*place): offset for place, offset in ends.items()}

    async def readable_end(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Where the first open transaction begins, else the log's end."""
        ends = await self._current().end_offsets([TopicPartition(*partition) for partition in partitions])
        return {Partition(*place): offset for place, offset in ends.items()}

    async def position(self, partition: Partition) -> int:
        """The offset that the client fetches next; 0 of a partition that is not assigned any more."""
        place = TopicPartition(*partition)
        consumer = self._current()
        return await consumer.position(place) if place in consumer.assignment() else 0

    def seek(self, partition: Partition, offset: int) -> None:
        self._loop().start(partition, offset)

    def pause(self, partition: Partition) -> None:
        self._loop().hold(partition)

    def resume(self, partition: Partition) -> None:
        self._loop().release(partition)


class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Tells the dispatcher what it owns. The callbacks return soon: heartbeats pause while they run. They never raise:
    aiokafka would log it, and go on as if all were well."""

    def __init__(self, dispatcher: Dispatcher, loop: Callable[[], RecordLoop]) -> None:
        self._dispatcher = dispatcher
        self._loop = loop

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        try:
            await self._dispatcher.revoked(Partition(*place) for place in revoked)
        except (Exception, asyncio.CancelledError):
            if is_cancelled():
                raise
            # What was taken is redelivered; the dispatcher has let go of the partitions all the same.
            log.exception("revocation_failed")
        for place in revoked:
            self._loop().forget(Partition(*place))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        partitions = [Partition(*place) for place in assigned]
        try:
            await self._dispatcher.assigned(partitions)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            log.exception("assignment_failed")
            self._dispatcher.refuse(partitions, RuntimeError(repr(error)))


class _Broker(KafkaBroker):
    """FastStream's broker, with a consumer class of ours. `_connect` makes what builds consumers; its result stands in
    the broker's configuration, where subscribers find it (faststream 0.7; `tests/unit/workers/test_app.py`)."""

    def __init__(self, *args: Any, consumer_class: type[AIOKafkaConsumer], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._consumer_class = consumer_class

    async def _connect(self) -> Callable[..., AIOKafkaConsumer]:
        builder: Any = await super()._connect()
        make: Any = self._consumer_class
        ours: Callable[..., AIOKafkaConsumer] = partial(make, **builder.keywords)
        self.config.broker_config.builder = ours
        return ours


def broker_for(settings: GroupSettings) -> KafkaBroker:
    """FastStream's broker, for consuming only; our publisher sends."""
    return _Broker(
        # FastStream takes a string for the address of one broker.
        [server.strip() for server in settings.bootstrap_servers.split(",")],
        consumer_class=settings.consumer_class,
        client_id=settings.client_id,
        metadata_max_age_ms=settings.metadata_max_age_ms,
        consumer_only=True,
        allow_auto_create_topics=False,
        apply_types=False,
        # Its loop, which would have errors to log, does not run: ours logs them.
        logger=None,
        security=settings.security,
        **settings.connection,
    )


class WorkerApp:
    """One member of the consumer group."""

    def __init__(
        self,
        settings: GroupSettings,
        observer: PollObserver,
        *,
        is_fatal: Callable[[Exception], bool] = lambda e: False,
    ) -> None:
        """`is_fatal`: errors of the Kafka client after which this member can't go on."""
        self._broker = broker_for(settings)
        self._settings = settings
        self._observer = observer
        self._is_fatal = is_fatal
        self._subscriber: Any = None
        self._loop: RecordLoop | None = None
        self._dispatcher: Dispatcher | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._watch = ProgressWatch()
        self._look_failed: str | None = None
        self.consumer = SubscribedConsumer(lambda: self._kafka_consumer, lambda: self.records)
        self.app = FastStream(self._broker, logger=None)
        self.failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        """Set when this member can't go on: the process is to end."""

    @property
    def records(self) -> RecordLoop:
        if self._loop is None:
            raise RuntimeError("the worker is not started")
        return self._loop

    async def start(self, dispatcher: Dispatcher) -> None:
        """Joins the group and begins to take records."""
        self._dispatcher = dispatcher
        settings = self._settings
        self._loop = RecordLoop(
            lambda: self._kafka_consumer,
            accept=dispatcher.accept,
            refuse=lambda partition, error: dispatcher.refuse([partition], error),
            observer=self._observer,
            max_records=settings.max_records,
            is_fatal=self._is_fatal,
        )
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
            listener=Rebalances(dispatcher, lambda: self.records),
        )
        await self.app.start()
        self._tasks = [
            self._supervised("record-loop", self._loop.run),
            self._supervised("commit-regularly", dispatcher.commit_regularly),
            self._supervised("watch-progress", self._watch_progress),
        ]

    async def stop(self) -> None:
        """Stops taking, drains, commits, leaves the group."""
        self._stopping = True
        if self._dispatcher is not None:
            await self._dispatcher.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.app.stop()

    def problems(self) -> list[str]:
        """What keeps records from being worked on, as sentences; none: all is well."""
        if self._loop is None or self._dispatcher is None:
            return ["the worker is starting"]
        found = [*self._loop.unreadable.values(), *self._dispatcher.refused.values()]
        if (unpolled := time.monotonic() - self._loop.polled_at) > STILL_SECONDS:
            why = self._loop.failing or "the consumer group may be dividing its partitions anew"
            found.append(f"Kafka was not polled for {unpolled:.0f} s: {why}")
        if (obstacle := self._dispatcher.preparing_problem(STILL_SECONDS)) is not None:
            found.append(obstacle)
        if (uncommitted := self._dispatcher.commit_problem(STILL_SECONDS)) is not None:
            found.append(uncommitted)
        if self._look_failed is not None:
            found.append(f"Kafka does not say how far the partitions are: {self._look_failed}")
        for partition, lag in self._watch.lags.items():
            if lag.held_by_transaction_seconds > STILL_SECONDS:
                found.append(_held(partition, lag.held_by_transaction_seconds))
            elif lag.still_seconds > STILL_SECONDS and not found:
                found.append(f"{partition}: {lag.records} records wait, none was done for {lag.still_seconds:.0f} s")
        return found

    def lag(self) -> dict[str, dict[str, object]]:
        """Per partition how far it is behind, for the health report."""
        return {
            str(partition): {
                "records": lag.records,
                "waiting_seconds": round(lag.still_seconds, 1),
                **(
                    {"note": _held(partition, lag.held_by_transaction_seconds)}
                    if lag.held_by_transaction_seconds > TRANSACTION_SECONDS
                    else {}
                ),
            }
            for partition, lag in sorted(self._watch.lags.items())
            if lag.records
        }

    async def _watch_progress(self) -> None:
        outage = Outage()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_SECONDS):
                    await self._look()
            except Exception as error:
                outage.failed()
                if outage.seconds > STILL_SECONDS:
                    self._look_failed = describe(error)
            else:
                outage.ended()
                self._look_failed = None

    async def _look(self) -> None:
        assert self._dispatcher is not None
        partitions = self._dispatcher.owned
        readable = await self.consumer.readable_end(partitions) if partitions else {}
        ends = await self.consumer.log_end(partitions) if partitions else {}
        samples = {}
        for partition, end in readable.items():
            done = self._dispatcher.done_below(partition)
            if done is None:
                # Not ready yet: the same number each time, so it counts as standing still.
                done = -1
            elif not self._dispatcher.is_busy(partition):
                # Transaction markers and aborted records are passed by the client, and never handed out.
                done = max(done, await self.consumer.position(partition))
            samples[partition] = Sample(
                done=done,
                readable_end=end,
                log_end=max(end, ends[partition]),
            )
        self._watch.look(samples, time.monotonic())

    def _supervised(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        return asyncio.create_task(self._run_again(name, run), name=name)

    async def _run_again(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs a background task, and again where it ends although it should not. One that can't go on ends the
        process, for a worker without it would be alive and idle."""
        failures: list[float] = []
        while not self._stopping:
            try:
                await run()
                error: BaseException = RuntimeError(f"{name} ended by itself")
            except asyncio.CancelledError as cancelled:
                if is_cancelled():
                    raise
                error = cancelled
            except Exception as raised:
                error = raised
            if self._stopping:
                return
            now = time.monotonic()
            failures = [*(at for at in failures if now - at < RESTARTS_SECONDS), now]
            if (isinstance(error, Exception) and self._is_fatal(error)) or len(failures) > RESTARTS:
                log.error("task_ended_for_good", task=name, error=describe(error))
                if not self.failed.done():
                    self.failed.set_result(error if isinstance(error, Exception) else RuntimeError(repr(error)))
                return
            log.error("task_restarted", task=name, exc_info=error)
            await asyncio.sleep(RESTART_PAUSE_SECONDS)

    @property
    def _kafka_consumer(self) -> AIOKafkaConsumer:
        consumer = self._subscriber.consumer if self._subscriber else None
        if consumer is None:
            raise RuntimeError("the consumer is not started")
        return consumer


def _held(partition: Partition, seconds: float) -> str:
    return (
        f"{partition}: an open transaction of a producer has held back what follows it for {seconds:.0f} s. It ends "
        "when its producer commits or aborts it, or after the producer's transaction.timeout.ms"
    )
