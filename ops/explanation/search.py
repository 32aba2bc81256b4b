"""Finds in the topics what is about a message or a session. It belongs to no consumer group and changes nothing."""

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaConsumer
from pydantic import ValidationError

from ops.dead_letters import DeadLetter, NotADeadLetter, decode_dead_letter
from ops.explanation.timeline import Asked, Timeline, Told, asked, inbound_id, timeline
from ops.kafka.reading import Spans, between, read_spans, whole_topic
from schemas.errors import NewerSchema
from schemas.partition import home_partition
from schemas.publishing import Position
from schemas.replies import decode_reply
from schemas.sealed import is_sealed
from schemas.topics import TopicNames

Advance = Callable[[int, int | None], None]

_BATCH = 2_000


@dataclass(slots=True)
class _Found:
    records: list[Asked] = field(default_factory=list)
    replies: list[Told] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)


class Search:
    """`wanted` is the id of a message, or of a session: then its newest `turns` are told.

    `session_id`, where it is known, spares reading the partitions that are not its home. `since` bounds how far back
    records are looked at.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        topics: TopicNames,
        inbound_topics: Collection[str],
        *,
        wanted: str,
        session_id: str | None,
        since: datetime,
        turns: int,
    ) -> None:
        self._consumer = consumer
        self._topics = topics
        self._inbound_topics = inbound_topics
        self._wanted = wanted
        self._wanted_bytes = wanted.encode()
        self._session_id = session_id
        self._since = since
        self._turns = turns
        self._by_id: dict[str, _Found] = defaultdict(_Found)
        self.erased = 0
        """Records of the session that nobody can read any more."""

    async def run(self, advance: Advance) -> list[Timeline]:
        """Oldest first; empty when nothing is about `wanted`.

        Raises:
            OpsError, KafkaError
        """
        spans: Spans = {}
        for topic in (*self._inbound_topics, self._topics.replies, self._topics.dlq):
            spans |= await self._span(topic)
        total = sum(end - begin for begin, end in spans.values())
        done = 0
        async for batches, _ in read_spans(self._consumer, spans, max_records=_BATCH):
            for record in chain.from_iterable(batches.values()):
                self._take(record)
            done += sum(map(len, batches.values()))
            advance(done, total)
        found = {message_id: each for message_id, each in self._by_id.items() if self._is_meant(message_id, each)}
        told = [timeline(each, found[each].records, found[each].replies, found[each].letters) for each in found]
        told.sort(key=self._order)
        return told[-self._turns :]

    def _order(self, each: Timeline) -> tuple[datetime, int, int]:
        """By when it began; messages of the same millisecond by the order in which the session has them."""
        began = min((step.at for step in each.steps if step.at), default=self._since)
        return began, each.extra.get("epoch", 0), each.extra.get("seq", 0)

    async def _span(self, topic: str) -> Spans:
        spans = await whole_topic(self._consumer, topic)
        if self._session_id is not None and topic in (self._topics.inbound, self._topics.replies):
            # Since partitions were added, older records may be elsewhere; without the option all are looked at.
            home = home_partition(self._session_id, len(spans))
            spans = {place: span for place, span in spans.items() if place.partition == home}
        return await between(self._consumer, spans, self._since, None)

    def _take(self, record: Any) -> None:
        about_session = record.key == self._wanted_bytes
        if not about_session and self._wanted_bytes not in (record.value or b"") and not self._names_place(record):
            return
        if is_sealed(record.value):
            self.erased += 1
            return
        if record.topic == self._topics.replies:
            self._take_reply(record)
        elif record.topic == self._topics.dlq:
            self._take_letter(record)
        else:
            question = asked(record, record.timestamp)
            self._by_id[inbound_id(question)].records.append(question)

    def _take_reply(self, record: Any) -> None:
        try:
            event = decode_reply(record.value or b"")
        except (ValidationError, NewerSchema):
            return
        place = Position(record.topic, record.partition, record.offset)
        at = datetime.fromtimestamp(record.timestamp / 1000, self._since.tzinfo)
        self._by_id[event.inbound_id].replies.append(Told(place, at, event))

    def _take_letter(self, record: Any) -> None:
        try:
            letter = decode_dead_letter(record)
        except NotADeadLetter:
            return
        question = asked(_Original(letter), int(letter.failed_at.timestamp() * 1000))
        self._by_id[inbound_id(question)].letters.append(letter)

    def _names_place(self, record: Any) -> bool:
        """A message without an id of its own is named by where it stands."""
        return f"{record.topic}:{record.partition}:{record.offset}" == self._wanted

    def _is_meant(self, message_id: str, found: _Found) -> bool:
        if message_id == self._wanted:
            return True
        sessions = {
            *(each.event.session_id for each in found.records if each.event is not None),
            *(each.event.session_id for each in found.replies),
            *(each.session_id for each in found.letters),
        }
        return self._wanted in sessions


class _Original:
    """The record that a dead letter was, where it stood."""

    def __init__(self, letter: DeadLetter) -> None:
        self.topic, self.partition, self.offset = letter.origin.topic, letter.origin.partition, letter.origin.offset
        self.key, self.value, self.headers = letter.key, letter.value, letter.headers
