"""When Redis forgets: sessions are put back from the reply topic, which is their changelog.

A store can lose writes that it had acknowledged: a failover, a flush, an older backup. The mark (`workers.marks`) that
it still has says up to where it had everything, so reading the topic from there on finds all that is missing, and after
an ordinary restart next to nothing is to be read. What is newer in the store stays.

Memory is bounded: where the sessions of a repair don't fit, they are divided by the hash of their ids, and the topic is
read once for each share. So each session is read and written once, and reads and writes of many share round trips.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from zlib import crc32

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from schemas.errors import SequenceGap
from schemas.fold import evolve
from schemas.partition import home_partition
from schemas.replies import ReplyEvent, SessionDeleted, decode_reply
from schemas.sealed import is_sealed
from schemas.session import EARLIER_IDS_MS, RECENT_EVENTS, SessionData, ids_pushed_out
from store.protocol import Applied, Fence, Fenced, Restorable, SessionStore
from store.seals import NO_KEYS, Seals
from workers.errors import LogCut, NotOwner
from workers.incarnations import Incarnations
from workers.records import Partition

log = structlog.get_logger(__name__)

_BATCH_RECORDS = 2_000
_POLL_MS = 2_000
_KEPT_BYTES = 128 * 1024 * 1024
"""Of sessions that are folded at once."""
_HASHES = 2**32
"""The number of values that the hash of a session's id has."""
_GROUP = 256
"""Sessions that are written at once."""


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
    pushed_out: list[tuple[str, int]] = field(default_factory=list)
    """Inbound ids that left the session's recent ones, since it was read."""
    held: dict[tuple[int, int], tuple[ReplyEvent, bytes]] = field(default_factory=dict)
    """Events, by epoch and seq, that follow nothing yet: what is before them was not read, or lies in another
    partition."""

    def take(self, event: ReplyEvent, value: bytes) -> None:
        try:
            self._apply(event, value)
        except SequenceGap:
            self.held[event.epoch, event.seq] = (event, value)
            return
        for place in sorted(self.held):
            try:
                self._apply(*self.held[place])
            except SequenceGap:
                return
            del self.held[place]

    def _apply(self, event: ReplyEvent, value: bytes) -> None:
        after = evolve(self.session, event)
        if after is self.session:
            return
        if event.seq == 1 or isinstance(event, SessionDeleted):
            self.events.clear()
            self.pushed_out.clear()
        self.events.append(value)
        self.pushed_out += ids_pushed_out(self.session, after)
        self.session, self.event_id, self.changed = after, event.id, True

    @property
    def size(self) -> int:
        """About how many bytes it keeps."""
        return 2_000 + sum(map(len, self.events)) + 80 * len(self.pushed_out)


class _Share:
    """The sessions that are folded in one reading of the topic: those whose hash is from `begin` up to `end`. It
    narrows itself when they become too large, and then another share has the rest."""

    def __init__(self, begin: int, kept_bytes: int) -> None:
        self._begin = begin
        self._kept_bytes = kept_bytes
        self.end = _HASHES
        self._sessions: dict[str, _Rebuilt] = {}
        self._sizes: dict[str, int] = {}
        self._bytes = 0

    def __contains__(self, key: bytes) -> bool:
        """Whether the session with this id belongs here."""
        return self._begin <= crc32(key) < self.end

    def unknown(self, session_ids: Iterable[str]) -> list[str]:
        """Those of them that were not added yet."""
        return sorted(set(session_ids) - self._sessions.keys())

    def add(self, session_id: str, rebuilt: _Rebuilt) -> None:
        self._sessions[session_id] = rebuilt

    def take(self, event: ReplyEvent, value: bytes) -> None:
        """Folds an event of a session that was added, and drops one of a session that a later share has now."""
        session_id = event.session_id
        rebuilt = self._sessions.get(session_id)
        if rebuilt is None:
            return
        rebuilt.take(event, value)
        self._bytes += rebuilt.size - self._sizes.get(session_id, 0)
        self._sizes[session_id] = rebuilt.size
        if self._bytes > self._kept_bytes and len(self._sessions) > 1:
            self._narrow()

    def _narrow(self) -> None:
        self.end = self._begin + max(1, (self.end - self._begin) // 2)
        for session_id in [each for each in self._sessions if each.encode() not in self]:
            del self._sessions[session_id]
            self._bytes -= self._sizes.pop(session_id, 0)

    @property
    def lacking(self) -> set[str]:
        """Sessions of which events are here that follow nothing yet."""
        return {session_id for session_id, each in self._sessions.items() if each.held}

    def sessions(self) -> list[_Rebuilt]:
        return list(self._sessions.values())


class StoreRepair:
    """Folds what the reply topic has beyond the store's marks into the store."""

    def __init__(
        self,
        store: SessionStore,
        make_consumer: Callable[[], AIOKafkaConsumer],
        *,
        inbound_topic: str,
        reply_topic: str,
        partitions: Callable[[], int],
        incarnations: Incarnations,
        observer: RepairObserver,
        seals: Seals = NO_KEYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`partitions` tells how many the inbound topic has now."""
        self._store = store
        self._make_consumer = make_consumer
        self._inbound_topic = inbound_topic
        self._reply_topic = reply_topic
        self._partitions = partitions
        self._incarnations = incarnations
        self._observer = observer
        self._seals = seals
        self._clock = clock

    def noticed(self, sign: str) -> None:
        log.warning("store_forgot", sign=sign)
        self._seals.distrust_index()
        self._observer.store_forgot(sign)

    async def run(self, partitions: Iterable[Partition], fence: Fence) -> None:
        """Repairs the sessions that have their home in these partitions of the inbound topic.

        Raises:
            StoreUnavailable, StoreReplaced, KafkaError: again, later; it may have been done in part.
            LogCut: the reply topic lacks what was in it.
            NotOwner: a later owner has written to one of the sessions.
        """
        homes = {p.partition for p in partitions if p.topic == self._inbound_topic}
        if not homes:
            return
        await self._incarnations.learn([self._reply_topic])
        # Since partitions were added, sessions of these homes have events elsewhere; so all partitions are looked at.
        # What others own is read up to a second's worth again, unless the store lost everything.
        consumer = self._make_consumer()
        try:
            await consumer.start()
            begins, ends = await self._bounds(consumer)
            marks = await self._store.progress([self._mark(number) for number in ends])
            for number in homes & ends.keys():
                if ends[number] < (mark := marks.get(self._mark(number), 0)):
                    raise LogCut.ends_below(self._reply_topic, number, ends[number], mark)
            starts = {number: max(begins[number], marks.get(self._mark(number), 0)) for number in ends}
            restored = begin = 0
            while begin < _HASHES:
                share = _Share(begin, _KEPT_BYTES)
                await self._read(consumer, starts, ends, homes, share)
                if lacking := share.lacking:
                    # The store lost whole sessions: only their beginnings can bring them back.
                    await self._read(consumer, begins, ends, homes, share, only=lacking)
                for session_id in share.lacking:
                    hint = "Its earlier events are not retained."
                    log.error("session_not_restorable", session_id=session_id, hint=hint)
                restored += await self._restore(share.sessions(), fence)
                begin = share.end
        finally:
            await consumer.stop()
        await self._store.save_progress({self._mark(number): ends[number] for number in homes if number in ends})
        if restored:
            log.warning("sessions_restored", count=restored, partitions=len(homes))
            self._observer.sessions_restored(restored)

    async def _bounds(self, consumer: AIOKafkaConsumer) -> tuple[dict[int, int], dict[int, int]]:
        """Where each reply partition begins and ends."""
        places = [TopicPartition(self._reply_topic, number) for number in range(self._partitions())]
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        return _by_number(begins), _by_number(ends)

    async def _read(
        self,
        consumer: AIOKafkaConsumer,
        starts: dict[int, int],
        ends: dict[int, int],
        homes: set[int],
        share: _Share,
        only: set[str] | None = None,
    ) -> None:
        """Folds the records between `starts` and `ends` of sessions at home in `homes`; of these sessions `only`."""
        open_places = {TopicPartition(self._reply_topic, n): ends[n] for n, start in starts.items() if start < ends[n]}
        if not open_places:
            return
        consumer.assign(list(open_places))
        for place in open_places:
            consumer.seek(place, starts[place.partition])
        while open_places:
            batches = await consumer.getmany(*open_places, timeout_ms=_POLL_MS, max_records=_BATCH_RECORDS)
            records = [record for batch in batches.values() for record in batch]
            await self._fold([record for record in records if self._is_meant(record, homes, share, only)], share)
            for place, end in list(open_places.items()):
                if await consumer.position(place) >= end:
                    del open_places[place]

    def _is_meant(self, record: Any, homes: set[int], share: _Share, only: set[str] | None) -> bool:
        """By its key, which is cheap to read; a record without a readable one belongs to no session."""
        key = record.key
        if key is None or key not in share:
            return False
        try:
            session_id = key.decode()
        except UnicodeDecodeError:
            return False
        if only is not None:
            return session_id in only
        return home_partition(session_id, self._partitions()) in homes

    async def _fold(self, records: list[Any], share: _Share) -> None:
        events: list[tuple[ReplyEvent, bytes]] = []
        values = await self._seals.opened([record.value for record in records])
        for record, value in zip(records, values, strict=True):
            if value is None or is_sealed(value):
                # Erased; the deletion that follows can be read. Or a batch that could not be unpacked.
                continue
            try:
                events.append((decode_reply(value), value))
            except ValidationError as error:
                log.error("reply_unreadable", partition=record.partition, offset=record.offset, error=str(error))
        unknown = share.unknown(event.session_id for event, _ in events)
        for n in range(0, len(unknown), _GROUP):
            group = unknown[n : n + _GROUP]
            for session_id, (session, stored) in zip(group, await self._store.load_whole(group), strict=True):
                share.add(session_id, _Rebuilt(session, deque(stored, maxlen=RECENT_EVENTS)))
        for event, value in events:
            share.take(event, value)
            if event.source is not None:
                self._incarnations.seen(event.source.topic)

    async def _restore(self, sessions: list[_Rebuilt], fence: Fence) -> int:
        """Writes what was folded; returns how many sessions the store had lacked. Raises NotOwner."""
        lost = [restorable for each in sessions if each.changed and (restorable := self._restorable(each)) is not None]
        restored = 0
        for n in range(0, len(lost), _GROUP):
            group = lost[n : n + _GROUP]
            for each, outcome in zip(group, await self._store.restore(group, fence), strict=True):
                match outcome:
                    case Fenced(token):
                        raise NotOwner(each.session.session_id, token)
                    case Applied():
                        restored += 1
        return restored

    def _restorable(self, rebuilt: _Rebuilt) -> Restorable | None:
        """None: it would have expired by now, and stays gone."""
        session = rebuilt.session
        assert session is not None, "what was changed is there"
        left = session.expires_at(self._store.ttl_of(session)) - self._clock()
        if left <= 0:
            return None
        oldest = session.updated_ms() - EARLIER_IDS_MS
        ids = [(inbound_id, at_ms) for inbound_id, at_ms in rebuilt.pushed_out if at_ms >= oldest]
        return Restorable(session, rebuilt.event_id, list(rebuilt.events), left, ids)

    def _mark(self, partition: int) -> str:
        return f"{self._incarnations.name(self._reply_topic)}:{partition}"


def _by_number(offsets: dict[TopicPartition, int]) -> dict[int, int]:
    return {place.partition: offset for place, offset in offsets.items()}
