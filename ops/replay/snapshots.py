"""Snapshots as a replay reads and writes them."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from itertools import chain

import structlog
from aiokafka import AIOKafkaConsumer
from pydantic import ValidationError

from ops.errors import OpsError
from ops.kafka.reading import read_spans, whole_topic
from ops.replay.selection import Selection
from schemas.publishing import Publisher, PublishError, Record
from schemas.sealed import is_sealed
from schemas.session import SessionData
from schemas.snapshots import (
    Coverage,
    coverage_key,
    decode_coverage,
    decode_snapshot,
    encode_coverage,
    is_coverage,
    snapshot_of,
)
from store.protocol import SessionStore
from store.redis.working_copy import Folded, WorkingCopy
from store.seals import Seals

log = structlog.get_logger(__name__)

MAX_SNAPSHOT_BYTES = 1_900_000
_BATCH_RECORDS = 500
_PAGE = 64


class SnapshotReading:
    """Puts the newest snapshot of each selected session into a working copy."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, copy: WorkingCopy, selection: Selection) -> None:
        self._consumer = consumer
        self._topic = topic
        self._copy = copy
        self._selection = selection
        self.taken = 0
        """Snapshots that were used; a session has more than one until the broker compacted the topic."""

    async def run(self, reply_topic: str) -> dict[int, int]:
        """Returns, per partition of the reply topic (in this life of it), below which offset snapshots have
        everything.

        Raises:
            OpsError: the broker fell silent.
            StoreError, KafkaError
        """
        covered: dict[int, int] = {}
        spans = await whole_topic(self._consumer, self._topic)
        async for batches, _ in read_spans(self._consumer, spans, max_records=_BATCH_RECORDS):
            newest: dict[str, bytes | None] = {}
            for record in chain.from_iterable(batches.values()):
                key = record.key or b""
                if is_coverage(key):
                    self._cover(covered, record.value, reply_topic)
                elif self._selection.takes_id(session_id := key.decode(errors="replace")):
                    newest[session_id] = record.value
            await self._copy.forget([each for each, value in newest.items() if value is None])
            # One that is still sealed was erased: the deletion, in clear, follows among the reply events.
            readable = {each: value for each, value in newest.items() if value is not None and not is_sealed(value)}
            seeds = [seed for each, value in readable.items() if (seed := _seed(each, value))]
            await self._copy.seed(seeds)
            self.taken += len(seeds)
        return covered

    def _cover(self, covered: dict[int, int], value: bytes | None, reply_topic: str) -> None:
        try:
            coverage = decode_coverage(value or b"")
        except ValidationError as error:
            log.error("coverage_unreadable", error=str(error))
            return
        if coverage.topic == reply_topic:
            covered[coverage.partition] = max(coverage.offset, covered.get(coverage.partition, 0))


def _seed(session_id: str, value: bytes) -> tuple[Folded, list[bytes]] | None:
    try:
        snapshot = decode_snapshot(value)
        session = snapshot.session
    except (ValidationError, TypeError) as error:
        # Without it the session can be rebuilt only if its events are still there.
        log.error("snapshot_unreadable", session_id=session_id, error=str(error))
        return None
    return Folded(session, snapshot.event_id), [event.encode() for event in snapshot.events]


class SnapshotWriting:
    """Publishes a snapshot of each session of a working copy that has none just so."""

    def __init__(self, publisher: Publisher, topic: str, seals: Seals, store: SessionStore) -> None:
        self._publisher = publisher
        self._topic = topic
        self._seals = seals
        self._store = store
        self.written = self.ended = 0

    async def run(
        self,
        copy: WorkingCopy,
        reply_topic: str,
        ends: Mapping[int, int],
        expired: Callable[[SessionData], bool],
        advance: Callable[[int, int | None], None],
    ) -> None:
        """Then says that all below `ends` is covered.

        Raises:
            OpsError: Kafka did not take one.
        """
        done = 0
        try:
            async with aclosing(copy.pages(_PAGE)) as pages:
                async for page in pages:
                    await asyncio.gather(*(self._write(*each, expired) for each in await copy.whole(page)))
                    done += len(page)
                    advance(done, None)
            for partition, offset in ends.items():
                await self._publisher.publish(coverage_record(self._topic, reply_topic, partition, offset))
        except PublishError as error:
            raise OpsError(f"{error} Run it again: what is covered is said only at the end.") from error

    async def _write(
        self, folded: Folded, events: list[bytes], known: bool, expired: Callable[[SessionData], bool]
    ) -> None:
        session = folded.session
        assert session is not None
        key = session.session_id.encode()
        if expired(session):
            if known:
                self.ended += 1
                await self._publisher.publish(Record(self._topic, key, None))
            return
        if known:
            return
        value = snapshot_of(session, folded.event_id, events, MAX_SNAPSHOT_BYTES)
        if not session.deleted:
            value = await self._seals.seal(session.session_id, value)
            # After that: a deletion that comes later destroys the key, and one from before shall not find what it
            # erased sealed with a key of the session's next life. Its event is behind what this snapshot covers.
            if await self._was_deleted(session):
                return
        self.written += 1
        await self._publisher.publish(Record(self._topic, key, value))

    async def _was_deleted(self, session: SessionData) -> bool:
        stored = await self._store.load(session.session_id)
        return stored is not None and (stored.session.deleted or stored.session.epoch > session.epoch)


def coverage_record(topic: str, reply_topic: str, partition: int, offset: int) -> Record:
    coverage = Coverage(topic=reply_topic, partition=partition, offset=offset)
    return Record(topic, coverage_key(partition), encode_coverage(coverage))
