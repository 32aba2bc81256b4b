"""Conversations as they are in the reply topic, made without a worker."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.fold import evolve, fact_fields
from schemas.inbound import Changes
from schemas.partition import home_partition
from schemas.replies import CustomerMessage, Reply, ReplyEvent, SessionDeleted, Source, TurnCompleted, encode_reply
from schemas.session import SessionData
from tests.processes import Pipeline

PARTITIONS = 12


@dataclass
class Recorded:
    """One session's events, oldest first, and what they make of it."""

    session_id: str
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    topic: str = "support.inbound.v1"
    events: list[ReplyEvent] = field(default_factory=list)
    session: SessionData | None = None

    def says(self, text: str, *, after_seconds: float = 1.0, changes: Changes | None = None) -> "Recorded":
        fields = self._fields(after_seconds)
        message = CustomerMessage(id=fields["inbound_id"], text=text, user_id=f"u-{self.session_id}")
        reply = Reply(text=f"About {text!r}.", generator="null")
        return self._add(TurnCompleted(**fields, actor="agent", message=message, reply=reply, changes=changes))

    def says_much(self, count: int) -> "Recorded":
        for n in range(count):
            self.says(f"question {n}")
        return self

    def is_deleted(self) -> "Recorded":
        return self._add(SessionDeleted(**self._fields(1.0), actor="customer"))

    def _fields(self, after_seconds: float) -> dict[str, Any]:
        n = len(self.events)
        if n:
            self.began += timedelta(seconds=after_seconds)
        at = self.began.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        source = Source(topic=self.topic, partition=home_partition(self.session_id, PARTITIONS), offset=1_000 + n)
        now_ms = int(self.began.timestamp() * 1000)
        return fact_fields(
            f"e-{self.session_id}-{n}", self.session_id, f"m-{self.session_id}-{n}", source, self.session, now_ms, at
        )

    def _add(self, event: ReplyEvent) -> "Recorded":
        self.events.append(event)
        self.session = evolve(self.session, event)
        return self

    @property
    def values(self) -> list[bytes]:
        return [encode_reply(event) for event in self.events]


async def publish(pipeline: Pipeline, conversations: Iterable[Recorded], *, partition: int | None = None) -> None:
    """Their events, interleaved, each session's in order, and as old for Kafka as they say."""
    kafka = AIOKafkaProducer(bootstrap_servers=pipeline.bootstrap_servers, acks="all", linger_ms=20)
    await kafka.start()
    try:
        sends = []
        queues = list(conversations)
        for n in range(max(len(each.events) for each in queues)):
            for each in queues:
                if n < len(each.events):
                    session_id, event = each.session_id, each.events[n]
                    home = home_partition(session_id, PARTITIONS) if partition is None else partition
                    at_ms = int(datetime.fromisoformat(event.completed_at).timestamp() * 1000)
                    value = encode_reply(event)
                    topic = pipeline.topics.replies
                    sends.append(await kafka.send(topic, value, session_id.encode(), home, timestamp_ms=at_ms))
        for send in sends:
            await send
    finally:
        await kafka.stop()


def tampered(session: SessionData) -> SessionData:
    """The same version, with something else in it."""
    return replace(session, metadata={"plan": "gold"}, message_count=session.message_count + 7)
