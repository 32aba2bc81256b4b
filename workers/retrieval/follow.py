"""Every worker reads the whole knowledge topic, and goes on reading: no group, no commits, one index in
memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from store.outage import describe
from workers.retrieval.index import KnowledgeIndex
from workers.retrieval.knowledge import KnowledgeState, Outcome

log = structlog.get_logger(__name__)

ConsumerFactory = Callable[[], AIOKafkaConsumer]
"""A consumer that is not started, without topics and group, with `auto_offset_reset="earliest"`."""

_POLL_MS = 500
_FIRST_RETRY_S = 0.2
_LONGEST_RETRY_S = 10.0


class KnowledgeFollower:
    """Keeps `index` as new as the topic.

    1. Reads every partition from the beginning to where it ended when reading began.
    2. Builds the index in a thread and swaps it in; `ready` returns.
    3. Follows live. While one index is built, records gather, and the next build has all of them.

    When the broker fails it logs, keeps answering from the index it has, and begins again at 1 with backoff.
    """

    def __init__(self, topic: str, new_consumer: ConsumerFactory, new_state: Callable[[], KnowledgeState]) -> None:
        self._topic = topic
        self._new_consumer = new_consumer
        self._new_state = new_state
        self._state = new_state()
        self._index = self._state.build()
        self._ready = asyncio.Event()
        self._changed = asyncio.Event()
        self._problem: str | None = "not started"
        self._task: asyncio.Task[None] | None = None

    @property
    def index(self) -> KnowledgeIndex:
        """The newest index; empty until the first is ready."""
        return self._index

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    @property
    def problem(self) -> str | None:
        """Why it is not following at the moment; None while it is."""
        return self._problem

    @property
    def counts(self) -> dict[Outcome, int]:
        """Records by what they did, since the topic was last read from its beginning."""
        return self._state.counts

    @property
    def refused(self) -> dict[str, str]:
        """Documents that are in the topic but not in the index, and why."""
        return self._state.problems

    def start(self) -> None:
        """Begins to read in the background."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"follow {self._topic}")

    async def ready(self) -> None:
        """Returns once the index has all that the topic held when reading began; waits while the broker is
        away."""
        await self._ready.wait()

    async def stop(self) -> None:
        """Ends following; `index` stays. Safe to call again."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._problem = "stopped"

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._follow()
            # Whatever went wrong, a worker with yesterday's knowledge is better than none.
            except Exception as error:
                attempt = 0 if self._problem is None else attempt + 1
                self._problem = describe(error)
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing
                delay = jitter * min(_LONGEST_RETRY_S, _FIRST_RETRY_S * 2 ** min(attempt, 10))
                expected = isinstance(error, KafkaError | OSError | TimeoutError | LookupError)
                log.warning(
                    "knowledge.interrupted",
                    topic=self._topic,
                    problem=self._problem,
                    retry_in_s=round(delay, 2),
                    exc_info=not expected,
                )
                await asyncio.sleep(delay)

    async def _follow(self) -> None:
        consumer = self._new_consumer()
        try:
            await consumer.start()
            state = self._new_state()
            await self._read_to_the_end(consumer, state)
            self._state = state
            await self._swap(state)
            self._problem = None
            self._ready.set()
            log.info("knowledge.ready", topic=self._topic, **self._figures())
            await self._follow_live(consumer, state)
        finally:
            await consumer.stop()

    async def _read_to_the_end(self, consumer: AIOKafkaConsumer, state: KnowledgeState) -> None:
        partitions = await self._partitions(consumer)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        waiting = set(partitions)
        while True:
            for partition in list(waiting):
                if await consumer.position(partition) >= ends[partition]:
                    waiting.discard(partition)
            if not waiting:
                return
            await self._take(consumer, state)

    async def _partitions(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        # Listing all topics creates none, where asking for one by name may.
        if self._topic not in await consumer.topics():
            raise LookupError(f"topic {self._topic} does not exist: create it with `supportstream topics create`")
        # A consumer knows the partitions of what it is assigned to, once it had to ask about them.
        first = TopicPartition(self._topic, 0)
        consumer.assign([first])
        await consumer.end_offsets([first])
        numbers = consumer.partitions_for_topic(self._topic) or {0}
        return [TopicPartition(self._topic, number) for number in sorted(numbers)]

    async def _follow_live(self, consumer: AIOKafkaConsumer, state: KnowledgeState) -> None:
        self._changed.clear()
        builder = asyncio.create_task(self._rebuild_on_change(state))
        try:
            while not builder.done():
                if await self._take(consumer, state):
                    self._changed.set()
            builder.result()
        finally:
            builder.cancel()
            await asyncio.gather(builder, return_exceptions=True)

    async def _rebuild_on_change(self, state: KnowledgeState) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._swap(state)
            log.info("knowledge.updated", topic=self._topic, **self._figures())

    async def _take(self, consumer: AIOKafkaConsumer, state: KnowledgeState) -> bool:
        """Folds what has arrived; True if the index must be built again."""
        affects_index = False
        for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
            for record in records:
                change = state.apply(record.key, record.value)
                affects_index |= change.affects_index
                if change.detail:
                    log.warning(
                        "knowledge.not_taken",
                        outcome=change.outcome.value,
                        doc_id=change.doc_id,
                        detail=change.detail,
                        partition=record.partition,
                        offset=record.offset,
                    )
        return affects_index

    async def _swap(self, state: KnowledgeState) -> None:
        documents = state.documents()
        self._index = await asyncio.to_thread(KnowledgeIndex, documents, state.dimensions)

    def _figures(self) -> dict[str, object]:
        index = self._index
        return {
            "documents": index.documents,
            "passages": len(index),
            "kb_version": index.kb_version,
            "not_taken": len(self._state.problems),
        }
