"""Reads, once, what the topics hold of the fate of dead letters (`ops.letter_fates`)."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer

from ops.dead_letter_topic import Advance
from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.reading import Spans, between, read_spans, started_reader, whole_topic
from ops.kafka.topics import TopicAdmin
from ops.letter_fates import Fates, reaches_back_to
from schemas.sealed import any_sealed
from store.errors import StoreError
from store.seals import Seals

_AT_ONCE = 2_000


class LetterEvidence:
    """Looks for evidence in the topics that workers read, and in the reply topic."""

    def __init__(self, connection: KafkaConnection, seals: Seals, inbound: Collection[str], replies: str) -> None:
        self._connection = connection
        self._seals = seals
        self._inbound = inbound
        self._replies = replies

    async def gather(self, fates: Fates, advance: Advance) -> None:
        """Hands `fates` everything since the first of its letters failed, as the topics are now.

        Of the inbound records only headers are looked at, of the replies only those of the letters' sessions are
        opened.

        Raises:
            OpsError: a topic can't be read.
        """
        since = fates.since
        if since is None:
            return
        async with started_reader(self._connection, "Kafka") as consumer:
            there = await consumer.topics()
            inbound: Spans = {}
            for topic in self._inbound:
                if topic in there:
                    inbound |= await between(consumer, await whole_topic(consumer, topic), since, None)
            whole = await whole_topic(consumer, self._replies)
            replies = await between(consumer, whole, since, None)
            fates.replies_reach_back_to(await self._complete_since(consumer, whole))
            reading = _Progress(advance, inbound, replies)
            async for batches, _ in read_spans(consumer, inbound, max_records=_AT_ONCE):
                for records in batches.values():
                    for record in records:
                        fates.inbound(record.headers, record.timestamp)
                    reading.add(len(records))
            async for batches, _ in read_spans(consumer, replies, max_records=_AT_ONCE):
                for records in batches.values():
                    await self._take_replies(fates, [each for each in records if each.key in fates.sessions])
                    reading.add(len(records))

    async def _take_replies(self, fates: Fates, records: Sequence[Any]) -> None:
        values = [record.value for record in records]
        if any_sealed(values):
            try:
                values = await self._seals.opened(values)
            except StoreError as error:
                raise OpsError(f"{self._replies} can't be read: {error}") from error
        for record, value in zip(records, values, strict=True):
            fates.reply(record.key.decode(), value, record.timestamp)

    async def _complete_since(self, consumer: AIOKafkaConsumer, whole: Spans) -> datetime | None:
        begins = [begin for begin, _ in whole.values()]
        if not any(begins):
            return None
        async with TopicAdmin(self._connection) as admin:
            config = (await admin.configs([self._replies])).get(self._replies, {})
        by_time = config.get("retention.bytes") == "-1" and config.get("retention.ms")
        retention_ms = int(by_time) if by_time else None
        oldest: list[datetime] = []
        if retention_ms is None or retention_ms < 0:
            firsts = {place: (begin, min(begin + 1, end)) for place, (begin, end) in whole.items() if begin}
            async for batches, _ in read_spans(consumer, firsts, max_records=_AT_ONCE):
                oldest += [
                    datetime.fromtimestamp(record.timestamp / 1000, UTC)
                    for records in batches.values()
                    for record in records
                ]
        return reaches_back_to(begins, retention_ms, oldest, datetime.now(UTC))


class _Progress:
    """How much of all spans was read."""

    def __init__(self, advance: Advance, *spans: Spans) -> None:
        self._advance = advance
        self._done = 0
        self._total = sum(max(0, end - begin) for each in spans for begin, end in each.values())

    def add(self, count: int) -> None:
        self._done = min(self._total, self._done + count)
        self._advance(self._done, self._total)
