"""When Redis forgets: sessions are put back from the reply topic, which is their changelog.

A store can lose writes that it had acknowledged: a failover, a flush, an older backup. The mark (`workers.marks`) that
it still has says up to where it had everything, so reading the topic from there on finds all that is missing, and after
an ordinary restart next to nothing is to be read. What is newer in the store stays.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from schemas.errors import SequenceGap
from schemas.fold import evolve
from schemas.replies import ReplyEvent, SessionDeleted, decode_reply
from schemas.session import RECENT_EVENTS, SessionData
from store.protocol import Fence, SessionStore
from workers.records import Partition

log = structlog.get_logger(__name__)

_BATCH_RECORDS = 2_000
_POLL_MS = 2_000


class RepairObserver(Protocol):
    def store_forgot(self, sign: str) -> None: ...

    def sessions_restored(self, count: int) -> None: ...


@dataclass(slots=True)
class _Rebuilt:
    """A session on its way through the events."""

    session: SessionData | None
    events: deque[bytes]
    event_id: str = ""
    changed: bool = False

    def take(self, event: ReplyEvent, value: bytes) -> None:
        """Raises SequenceGap."""
        after = evolve(self.session, event)
        if after is self.session:
            return
        if event.seq == 1 or isinstance(event, SessionDeleted):
            self.events.clear()
        self.events.append(value)
        self.session, self.event_id, self.changed = after, event.id, True


@dataclass(slots=True)
class _Pass:
    """One reading of partitions."""

    rebuilt: dict[str, _Rebuilt] = field(default_factory=dict)
    gaps: set[int] = field(default_factory=set)
    """Partitions with a session whose earlier events are before where the reading began."""


class StoreRepair:
    """Folds what the reply topic has beyond the store's marks into the store."""

    def __init__(
        self,
        store: SessionStore,
        make_consumer: Callable[[], AIOKafkaConsumer],
        *,
        inbound_topic: str,
        reply_topic: str,
        observer: RepairObserver,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._make_consumer = make_consumer
        self._inbound_topic = inbound_topic
        self._reply_topic = reply_topic
        self._observer = observer
        self._clock = clock

    def noticed(self, sign: str) -> None:
        log.warning("store_forgot", sign=sign)
        self._observer.store_forgot(sign)

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None:
        """Repairs the sessions that have their home in these partitions of the inbound topic.

        Raises:
            StoreUnavailable, StoreReplaced, KafkaError: again, later; it may have been done in part.
        """
        numbers = sorted(p.partition for p in partitions if p.topic == self._inbound_topic)
        if not numbers:
            return
        marks = await self._store.progress([self._mark(number) for number in numbers])
        consumer = self._make_consumer()
        try:
            await consumer.start()
            places = [TopicPartition(self._reply_topic, number) for number in numbers]
            begins = {place.partition: offset for place, offset in (await consumer.beginning_offsets(places)).items()}
            ends = {place.partition: offset for place, offset in (await consumer.end_offsets(places)).items()}
            starts = {number: max(begins[number], marks.get(self._mark(number), 0)) for number in numbers}
            found = await self._read(consumer, starts, ends)
            if again := {number: begins[number] for number in found.gaps if begins[number] < starts[number]}:
                # The store lost whole sessions: only their beginnings can bring them back.
                found.rebuilt.update((await self._read(consumer, again, ends)).rebuilt)
        finally:
            await consumer.stop()
        restored = await self._restore(found, fence)
        await self._store.save_progress({self._mark(number): end for number, end in ends.items()})
        if restored:
            log.warning("sessions_restored", count=restored, partitions=len(numbers))
            self._observer.sessions_restored(restored)

    async def _read(self, consumer: AIOKafkaConsumer, starts: dict[int, int], ends: dict[int, int]) -> _Pass:
        """Folds the records between `starts` and `ends`, per partition."""
        found = _Pass()
        open_places = {TopicPartition(self._reply_topic, n): ends[n] for n, start in starts.items() if start < ends[n]}
        consumer.assign(list(open_places))
        for place in open_places:
            consumer.seek(place, starts[place.partition])
        while open_places:
            batches = await consumer.getmany(*open_places, timeout_ms=_POLL_MS, max_records=_BATCH_RECORDS)
            await self._fold([record for records in batches.values() for record in records], found)
            for place, end in list(open_places.items()):
                if await consumer.position(place) >= end:
                    del open_places[place]
        return found

    async def _fold(self, records: list[Any], found: _Pass) -> None:
        events: list[tuple[int, ReplyEvent, bytes]] = []
        for record in records:
            try:
                events.append((record.partition, decode_reply(record.value or b""), record.value))
            except ValidationError as error:
                log.error("reply_unreadable", partition=record.partition, offset=record.offset, error=str(error))
        for session_id in {event.session_id for _, event, _ in events} - found.rebuilt.keys():
            found.rebuilt[session_id] = await self._stored(session_id)
        for partition, event, value in events:
            try:
                found.rebuilt[event.session_id].take(event, value)
            except SequenceGap:
                found.gaps.add(partition)

    async def _stored(self, session_id: str) -> _Rebuilt:
        stored = await self._store.load(session_id)
        events = await self._store.events(session_id) if stored else []
        return _Rebuilt(stored.session if stored else None, deque(events, maxlen=RECENT_EVENTS))

    async def _restore(self, found: _Pass, fence: Fence) -> int:
        restored = 0
        for rebuilt in found.rebuilt.values():
            session = rebuilt.session
            if session is None or not rebuilt.changed:
                continue
            left = session.expires_at(self._store.ttl_of(session)) - self._clock()
            # What would have expired by now stays gone.
            if left > 0:
                restored += await self._store.restore(
                    session, event_id=rebuilt.event_id, fence=fence, events=list(rebuilt.events), ttl_seconds=left
                )
        return restored

    def _mark(self, partition: int) -> str:
        return f"{self._reply_topic}:{partition}"
