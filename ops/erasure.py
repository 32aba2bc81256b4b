"""Erasing a person: which sessions are theirs, what can be read of them, and making that unreadable.

What is sealed (`store.session_keys`) goes with its keys. What other systems published in plain text, or was written
before topics were encrypted, stays until Kafka lets it go; the report says so.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer

from ops.dead_letters import session_of
from ops.kafka.reading import Spans, read_spans, whole_topic
from ops.kafka.topics import TopicState
from schemas.sealed import WITHOUT_CONTENT, is_sealed
from store.direct import DirectSessions
from store.errors import CorruptSession, WrongKey
from store.redis import RedisSessionStore
from store.seals import Seals

Advance = Callable[[int, int | None], None]

_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Belongings:
    """One session of the person."""

    session_id: str
    live: bool
    """The store has it."""
    keys: int
    """How many keys its content is sealed with."""


@dataclass(frozen=True, slots=True)
class PlainRecords:
    """What nobody needs a key for, in one topic."""

    topic: str
    records: int
    gone_by: datetime | None
    """When Kafka has let go of the newest. None: never, by the topic's settings."""


@dataclass(slots=True)
class Erasure:
    """What belongs to the person, and was erased if that was asked for."""

    sessions: Sequence[Belongings] = ()
    plain: Sequence[PlainRecords] = ()
    executed: bool = False

    @property
    def kept_for_ever(self) -> int:
        """Records that can be read, and that no retention takes away."""
        return sum(each.records for each in self.plain if each.gone_by is None)


@dataclass(frozen=True, slots=True)
class ContentTopic:
    """A topic that has content of sessions."""

    name: str
    keeps_ms: int | None
    """How long a record may stay after it was written. None: for ever."""


def content_topic(state: TopicState) -> ContentTopic:
    """By the topic's settings as the broker has them. Whole segments are removed, once their newest record is old."""
    retention_ms = int(state.config.get("retention.ms", "-1"))
    if "compact" in state.config.get("cleanup.policy", "") or retention_ms < 0:
        return ContentTopic(state.name, None)
    return ContentTopic(state.name, retention_ms + int(state.config.get("segment.ms", "0")))


class Eraser:
    """Looks and erases. `consumer` opens nothing by itself; `topics` are all that have content of sessions.

    Every method may raise OpsError, KafkaError or StoreError.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        topics: Sequence[ContentTopic],
        store: RedisSessionStore,
        seals: Seals,
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._store = store
        self._seals = seals

    async def sessions_of(self, users: frozenset[str], advance: Advance) -> set[str]:
        """All sessions that the store, or anything in the topics that can still be read, says are these users'."""
        found: set[str] = set()
        if not users:
            return found
        async for records, values in self._records(advance):
            for record, value in zip(records, values, strict=True):
                body = _body(value)
                if body is not None and not users.isdisjoint(_users_in(body)):
                    found.add(session_of(record.key, value) or "")
        async with aclosing(self._store.session_id_pages()) as pages:
            async for page in pages:
                owners = await asyncio.gather(*map(self._owner, page))
                found.update(each for each, owner in zip(page, owners, strict=True) if owner in users)
        return found - {""}

    async def survey(self, session_ids: Collection[str], advance: Advance) -> Erasure:
        """What there is of these sessions."""
        live = await asyncio.gather(*map(self._store.exists, session_ids))
        keys = [len(await self._seals.ids_of(session_id)) for session_id in session_ids]
        belongings = [Belongings(*each) for each in zip(session_ids, live, keys, strict=True)]
        return Erasure(sorted(belongings, key=lambda each: each.session_id), await self._plain(session_ids, advance))

    async def erase(self, found: Erasure, sessions: DirectSessions, advance: Advance) -> None:
        """Deletes what is live, and destroys the keys of all."""
        for number, each in enumerate(found.sessions, 1):
            # Of what has expired the store has nothing to delete.
            if not await sessions.delete(each.session_id):
                await self._seals.destroy(each.session_id, await self._seals.ids_of(each.session_id))
            advance(number, len(found.sessions))
        found.executed = True

    async def _owner(self, session_id: str) -> str | None:
        try:
            session = await self._store.get(session_id)
        except (WrongKey, CorruptSession):
            return None
        return session.user_id if session is not None else None

    async def _plain(self, session_ids: Collection[str], advance: Advance) -> list[PlainRecords]:
        keys = {session_id.encode() for session_id in session_ids}
        counts: Counter[str] = Counter()
        newest: dict[str, int] = {}
        async for records, _ in self._records(advance, opened=False):
            for record in records:
                if record.value is None or is_sealed(record.value):
                    continue
                if (record.key in keys or record.key is None) and _is_content(record, session_ids):
                    counts[record.topic] += 1
                    newest[record.topic] = max(record.timestamp, newest.get(record.topic, 0))
        by_name = {topic.name: topic for topic in self._topics}
        return [
            PlainRecords(topic, count, _gone_by(by_name[topic], newest[topic]))
            for topic, count in sorted(counts.items())
        ]

    async def _records(
        self, advance: Advance, *, opened: bool = True
    ) -> AsyncIterator[tuple[list[Any], Sequence[bytes | None]]]:
        """The records of all topics, with their values as they can be read."""
        spans: Spans = {}
        for topic in self._topics:
            spans |= await whole_topic(self._consumer, topic.name)
        total = sum(end - begin for begin, end in spans.values())
        done = 0
        async for batches, _ in read_spans(self._consumer, spans, max_records=_BATCH):
            records = list(chain.from_iterable(batches.values()))
            values = [record.value for record in records]
            yield records, await self._seals.opened(values) if opened else values
            done += len(records)
            advance(done, total)


def _body(value: bytes | None) -> Mapping[str, Any] | None:
    try:
        body = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _users_in(body: Mapping[str, Any]) -> Iterable[str]:
    """Who an event, or a snapshot, says that it is of."""
    for part in (body, *(body.get(name) for name in ("message", "changes", "state"))):
        if isinstance(part, dict) and isinstance(user := part.get("user_id"), str):
            yield user


def _is_content(record: Any, session_ids: Collection[str]) -> bool:
    body = _body(record.value)
    if body is None:
        return record.key is not None
    state = body.get("state")
    if body.get("type") in WITHOUT_CONTENT or (isinstance(state, dict) and state.get("deleted")):
        return False
    return record.key is not None or session_of(None, record.value) in session_ids


def _gone_by(topic: ContentTopic, newest_ms: int) -> datetime | None:
    if topic.keeps_ms is None:
        return None
    return datetime.fromtimestamp(newest_ms / 1000, UTC) + timedelta(milliseconds=topic.keeps_ms)
