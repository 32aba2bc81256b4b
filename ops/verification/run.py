"""Reads a span of traffic for the checker: committed offsets, inbound records, replies, dead letters, sessions."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from ops.dead_letters import NotADeadLetter, decode_dead_letter
from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.reading import Spans, read_spans, span_reader, whole_topic
from ops.verification.checker import Checker, Findings
from schemas.session import SessionData
from schemas.topics import TopicNames
from store.errors import StoreError
from store.protocol import SessionStore
from store.seals import NO_KEYS, Seals
from workers.incarnations import Incarnations
from workers.records import Partition

Advance = Callable[[int, int], None]
"""Takes how many records were read, and of how many."""

_SETTLE_SECONDS = 10.0
"""How long a session may be ahead of the reply topic: its newest reply is on its way."""
_POLL_SECONDS = 0.25
_LOADED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Span:
    """Which inbound records are meant, by the time that Kafka has of them; None: no limit."""

    since: datetime | None = None
    until: datetime | None = None
    """Exclusive."""


class Verification:
    """One look at a pipeline, while it works or after; it changes nothing and belongs to no consumer group."""

    def __init__(
        self,
        connection: KafkaConnection,
        topics: TopicNames,
        extra_inbound_topics: Sequence[str],
        group: str,
        store: SessionStore,
        *,
        seals: Seals = NO_KEYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._topics = topics
        self._inbound_topics = (topics.inbound, *extra_inbound_topics)
        self._group = group
        self._store = store
        self._seals = seals
        self._clock = clock

    async def run(self, span: Span, wait_seconds: float, advance: Advance) -> Findings:
        """Checks the span. With `wait_seconds`, waits at most so long until all of it is committed, and takes what has
        no outcome then for lost.

        Raises:
            OpsError: broker, topics or store are away.
        """
        try:
            async with span_reader(self._connection, seals=self._seals) as consumer:
                return await self._run(consumer, span, wait_seconds, advance)
        except StoreError as error:
            raise OpsError(str(error)) from error

    async def _run(self, consumer: AIOKafkaConsumer, span: Span, wait_seconds: float, advance: Advance) -> Findings:
        inbound = await self._inbound_span(consumer, span)
        committed = await self._committed_at_last(
            consumer,
            {Partition(*place): end for place, (begin, end) in inbound.items() if begin < end},
            wait_seconds,
        )
        incarnations = Incarnations(self._store)
        await incarnations.learn(self._inbound_topics)
        checker = Checker(committed, incarnations.name)
        # What was committed before has its reply by now, and its dead letter before its reply.
        replies = await whole_topic(consumer, self._topics.replies)
        letters = await whole_topic(consumer, self._topics.dlq)
        reading = _Reading(consumer, advance)
        reading.expect(inbound, replies, letters)
        async for record in reading.records(inbound):
            checker.inbound(record)
        only = checker.sessions_of_inbound() if span.since or span.until else None
        for place, (begin, _) in replies.items():
            checker.replies_begin(place.partition, begin)
        await self._replies(reading, checker, replies, only)
        await _letters(reading, checker, letters)
        await self._sessions(reading, checker, replies, only)
        return checker.finish(complete=wait_seconds > 0)

    async def _inbound_span(self, consumer: AIOKafkaConsumer, span: Span) -> Spans:
        found: Spans = {}
        for topic in self._inbound_topics:
            found |= await whole_topic(consumer, topic)
        begins = await _at_time(consumer, span.since, found, {place: begin for place, (begin, _) in found.items()})
        ends = await _at_time(consumer, span.until, found, {place: end for place, (_, end) in found.items()})
        return {place: (max(begins[place], begin), min(ends[place], end)) for place, (begin, end) in found.items()}

    async def _committed_at_last(
        self, consumer: AIOKafkaConsumer, ends: Mapping[Partition, int], wait_seconds: float
    ) -> dict[Partition, int]:
        admin = AIOKafkaAdminClient(**self._connection.client_arguments())
        await admin.start()
        try:
            give_up_at = time.monotonic() + wait_seconds
            while True:
                offsets = await admin.list_consumer_group_offsets(self._group)
                committed = {Partition(*place): at.offset for place, at in offsets.items() if at.offset >= 0}
                left = {p: (committed.get(p, 0), end) for p, end in ends.items() if committed.get(p, 0) < end}
                if time.monotonic() >= give_up_at or not await _any_records(consumer, left):
                    return committed
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await admin.close()

    async def _replies(self, reading: "_Reading", checker: Checker, replies: Spans, only: set[str] | None) -> None:
        wanted = None if only is None else {session_id.encode() for session_id in only}
        async for record in reading.records(replies):
            # Our own replies have their session as key: what isn't meant need not be decoded.
            if wanted is None or record.key in wanted:
                checker.reply(record)

    async def _sessions(self, reading: "_Reading", checker: Checker, replies: Spans, only: set[str] | None) -> None:
        ahead: list[str] = []
        session_ids = list(checker.sessions())
        for begin in range(0, len(session_ids), _LOADED_AT_ONCE):
            page = session_ids[begin : begin + _LOADED_AT_ONCE]
            ahead += await self._compare(checker, page, last_look=False)
        give_up_at = time.monotonic() + _SETTLE_SECONDS
        while ahead:
            now_replies = await whole_topic(reading.consumer, self._topics.replies)
            news = {
                place: (replies[place][1] if place in replies else begin, end)
                for place, (begin, end) in now_replies.items()
            }
            reading.expect(news)
            await self._replies(reading, checker, news, only)
            replies = now_replies
            last_look = time.monotonic() >= give_up_at
            ahead = await self._compare(checker, ahead, last_look=last_look)
            if ahead:
                await asyncio.sleep(_POLL_SECONDS)

    async def _compare(self, checker: Checker, session_ids: Sequence[str], *, last_look: bool) -> list[str]:
        """Hands sessions to the checker; returns those that are ahead of what was read, unless it is the last look."""
        found = await asyncio.gather(*(self._load(session_id) for session_id in session_ids))
        ahead: list[str] = []
        for session_id, (live, events) in zip(session_ids, found, strict=True):
            folded = checker.folded(session_id)
            if live is not None and live.version > folded.version and not last_look:
                ahead.append(session_id)
                continue
            expired = folded.expires_at(self._store.ttl_of(folded)) <= self._clock() + 1.0
            checker.stored(session_id, live, events, expired=expired)
        return ahead

    async def _load(self, session_id: str) -> tuple[SessionData | None, Sequence[bytes]]:
        stored = await self._store.load(session_id)
        if stored is None:
            return None, ()
        return stored.session, await self._store.events(session_id)


class _Reading:
    """Reads spans, tells how far it is."""

    def __init__(self, consumer: AIOKafkaConsumer, advance: Advance) -> None:
        self.consumer = consumer
        self._advance = advance
        self._done = self._total = 0

    def expect(self, *spans: Spans) -> None:
        self._total += sum(max(0, end - begin) for each in spans for begin, end in each.values())

    async def records(self, spans: Spans) -> AsyncIterator[Any]:
        """The records of each partition in order; partitions take turns.

        Raises:
            OpsError: the broker fell silent.
        """
        async for batches, _ in read_spans(self.consumer, spans, max_records=2_000):
            for record in chain.from_iterable(batches.values()):
                self._done += 1
                yield record
            self._advance(min(self._done, self._total), self._total)


async def _any_records(consumer: AIOKafkaConsumer, left: Mapping[Partition, tuple[int, int]]) -> bool:
    """Whether there are records in these spans. Transaction markers and aborted records are none, and are not committed
    past where they are a partition's last."""
    begins = await consumer.beginning_offsets([TopicPartition(*partition) for partition in left]) if left else {}
    spans = {
        TopicPartition(*partition): (max(begin, begins[TopicPartition(*partition)]), end)
        for partition, (begin, end) in left.items()
    }
    async for batches, _ in read_spans(consumer, spans, max_records=1):
        if batches:
            return True
    return False


async def _letters(reading: _Reading, checker: Checker, letters: Spans) -> None:
    async for record in reading.records(letters):
        try:
            checker.dead_letter(decode_dead_letter(record))
        except NotADeadLetter:
            checker.findings.records["strangers_among_dead_letters"] += 1


async def _at_time(
    consumer: AIOKafkaConsumer, when: datetime | None, spans: Spans, otherwise: Mapping[TopicPartition, int]
) -> Mapping[TopicPartition, int]:
    if when is None:
        return otherwise
    at_ms = max(0, int(when.timestamp() * 1000))
    found = await consumer.offsets_for_times(dict.fromkeys(spans, at_ms))
    # None: nothing in the partition is as new.
    return {place: found[place].offset if found.get(place) else spans[place][1] for place in spans}
