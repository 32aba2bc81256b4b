"""Reply events as JSON Lines of CloudEvents, for moving sessions to another cluster, and for tests.

A line is a CloudEvent 1.0 in its JSON format: `subject` is the session, `data` the reply event.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import ValidationError

from ops.errors import OpsError
from ops.kafka.reading import read_spans, whole_topic
from schemas.errors import NewerSchema, explain
from schemas.publishing import Publisher, PublishError
from schemas.records import reply_record
from schemas.replies import ReplyEvent, decode_reply
from schemas.sealed import is_sealed

Advance = Callable[[int, int | None], None]

_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Span:
    """Which events are meant: of these sessions (none: all), by the time that Kafka has of them."""

    sessions: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    """Exclusive."""

    def takes(self, record: Any) -> bool:
        if self.sessions and (record.key or b"").decode(errors="replace") not in self.sessions:
            return False
        at = record.timestamp / 1000
        return (self.since is None or at >= self.since.timestamp()) and (
            self.until is None or at < self.until.timestamp()
        )


async def export_lines(consumer: AIOKafkaConsumer, topic: str, span: Span, advance: Advance) -> AsyncIterator[bytes]:
    """A line per reply event, each session's in order as they stand in the topic; without one that comes again
    directly, and without what is no reply event.

    Raises:
        OpsError, KafkaError
    """
    spans = await whole_topic(consumer, topic)
    total = sum(end - begin for begin, end in spans.values())
    done = 0
    newest: dict[TopicPartition, bytes] = {}
    async for batches, _ in read_spans(consumer, spans, max_records=_BATCH):
        for place, records in batches.items():
            for record in records:
                # A worker that lost its connection publishes its last reply once more.
                # What was erased is in no export.
                if not record.value or is_sealed(record.value):
                    continue
                if span.takes(record) and newest.get(place) != record.value:
                    newest[place] = record.value
                    if (line := _line(record.value)) is not None:
                        yield line
            done += len(records)
        advance(done, total)


def _line(value: bytes) -> bytes | None:
    try:
        event = decode_reply(value)
    except ValidationError:
        return None
    except NewerSchema as error:
        raise OpsError(str(error)) from error
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event.id,
            "source": "/workers",
            "type": f"supportstream.{event.type}.v1",
            "subject": event.session_id,
            "time": event.completed_at,
            "datacontenttype": "application/json",
            # Byte for byte as it was published.
            "data": orjson.Fragment(value),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def read_lines(lines: Iterable[bytes]) -> Iterable[tuple[ReplyEvent, bytes]]:
    """The events of exported lines.

    Raises:
        OpsError: a line is none; it names which, and what is wrong.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            body = orjson.loads(line)
            if not isinstance(body, dict) or body.get("specversion") != "1.0" or not isinstance(body.get("data"), dict):
                raise OpsError(f"Line {number} is no CloudEvent 1.0 with an object as its data.")
            value = orjson.dumps(body["data"])
            yield decode_reply(value), value
        except orjson.JSONDecodeError as error:
            raise OpsError(f"Line {number} is no JSON: {error}") from error
        except ValidationError as error:
            raise OpsError(f"Line {number} has no reply event: {explain(error)}") from error
        except NewerSchema as error:
            raise OpsError(f"Line {number}: {error}") from error


async def import_events(
    events: Iterable[tuple[ReplyEvent, bytes]], publisher: Publisher, topic: str, partitions: int, advance: Advance
) -> int:
    """Publishes them at the homes of their sessions, each session's in order; returns how many.

    Raises:
        OpsError: Kafka did not take one. What is sent again is recognised by its place in the session.
    """
    done = 0
    source = iter(events)
    while batch := list(islice(source, _BATCH)):
        sessions: dict[str, list[tuple[ReplyEvent, bytes]]] = defaultdict(list)
        for event, value in batch:
            sessions[event.session_id].append((event, value))

        async def send(of_session: list[tuple[ReplyEvent, bytes]]) -> None:
            for event, value in of_session:
                await publisher.publish(
                    reply_record(event, value, topic=topic, partitions=partitions, source="/import")
                )

        try:
            await asyncio.gather(*map(send, sessions.values()))
        except PublishError as error:
            raise OpsError(f"{error} {done} events were published before. Run it again.") from error
        done += len(batch)
        advance(done, None)
    return done
