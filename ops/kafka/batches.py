"""Records of many callers, sent together: one batch per partition, made when the one before it is acknowledged.

aiokafka's own `send` costs about 30 µs of CPU for each record, its batches a few; and what a caller publishes while a
batch of its partition is under way waits for that anyway. A caller alone waits for nothing.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Coroutine
from functools import partial

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata

from schemas.publishing import Position, Record

ALONE_BYTES = 32 * 1024
"""A record larger than this travels alone, so that a broker that refuses it for its size refuses no other."""


class _Partition:
    """What waits for one partition, and what is under way."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.waiting: deque[tuple[Record, asyncio.Future[Position]]] = deque()
        self.scheduled = False
        self.under_way = False
        self.reached = False
        """A batch was handed over before: the topic is known, so handing over doesn't wait."""


class BatchSender:
    """Sends through one producer until it fails; then a new one is made around a new producer."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._scheduled: list[_Partition] = []
        self._flush: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, record: Record, partition: int) -> "asyncio.Future[Position]":
        """Where Kafka put the record, once all in-sync replicas have it; else aiokafka's error. Cancelling the future
        doesn't unsend."""
        key = (record.topic, partition)
        found = self._partitions.get(key)
        if found is None:
            found = self._partitions[key] = _Partition(*key)
        future: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        found.waiting.append((record, future))
        self._schedule(found)
        return future

    def _schedule(self, partition: _Partition) -> None:
        if partition.scheduled or partition.under_way:
            return
        partition.scheduled = True
        self._scheduled.append(partition)
        if self._flush is None:
            # In the next turn of the event loop, with everything that is published in this one.
            self._flush = self._start(self._send_scheduled())

    async def _send_scheduled(self) -> None:
        self._flush = None
        scheduled, self._scheduled = self._scheduled, []
        for partition in scheduled:
            partition.scheduled = False
            partition.under_way = True
            if partition.reached:
                await self._send_batch(partition)
            else:
                # A topic that isn't there must not hold up the others.
                self._start(self._send_batch(partition))

    async def _send_batch(self, partition: _Partition) -> None:
        batch = self._producer.create_batch()
        sent: list[asyncio.Future[Position]] = []
        waiting = partition.waiting
        while waiting:
            record, future = waiting[0]
            if future.done():  # given up meanwhile
                waiting.popleft()
                continue
            alone = len(record.value or b"") > ALONE_BYTES
            if sent and alone:
                break
            if batch.append(timestamp=None, key=record.key, value=record.value, headers=record.headers) is None:
                if not sent:
                    waiting.popleft()
                    _fail([future], MessageSizeTooLargeError())
                    continue
                break
            waiting.popleft()
            sent.append(future)
            if alone:
                break
        if not sent:
            partition.under_way = False
            return
        try:
            delivery = await self._producer.send_batch(batch, partition.topic, partition=partition.number)
        except (KafkaError, OSError) as error:
            self._finished(partition)
            _fail(sent, error)
            return
        partition.reached = True
        delivery.add_done_callback(partial(self._delivered, partition, sent))

    def _delivered(
        self,
        partition: _Partition,
        sent: list["asyncio.Future[Position]"],
        delivery: "asyncio.Future[RecordMetadata]",
    ) -> None:
        self._finished(partition)
        if delivery.cancelled():
            _fail(sent, KafkaError("the producer was stopped"))
        elif (error := delivery.exception()) is not None:
            _fail(sent, error)
        else:
            first = delivery.result().offset
            for position, future in enumerate(sent):
                if not future.done():
                    future.set_result(Position(partition.topic, partition.number, first + position))

    def _finished(self, partition: _Partition) -> None:
        partition.under_way = False
        if partition.waiting:
            self._schedule(partition)

    def _start(self, sending: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _fail(futures: list["asyncio.Future[Position]"], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            # A copy each, so that their tracebacks stay their own.
            future.set_exception(copy.copy(error))
