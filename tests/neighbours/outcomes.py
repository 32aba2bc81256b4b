"""What became of inbound records: replies and dead letters as they come, and the verdict of `supportstream verify`."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from schemas.replies import ReplyEvent, TurnCompleted, TurnFailed, decode_reply
from tests.chaos.experiment import broken
from tests.neighbours.java_producer import Outgoing
from tests.processes import Pipeline, Process
from tests.topic_records import producer, session_on

PARTITIONS = 12
_ANSWERED_WITHIN_S = 30.0
_SETTLED_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Question:
    """A message of a session that is at home in the partition."""

    partition: int
    session_id: str
    id: str

    @property
    def value(self) -> str:
        return orjson.dumps({"id": self.id, "text": f"Is anybody there? This is {self.id}."}).decode()

    def outgoing(self, *, padding: int = 0) -> Outgoing:
        """The record for a Java producer; with `padding` its text is so much longer."""
        value = self.value if not padding else self.value.replace("This is", "{padding} This is")
        return Outgoing(self.session_id, value, self.partition, padding)


def questions(name: str, partitions: Collection[int] = range(PARTITIONS), each: int = 1) -> list[Question]:
    """`each` messages of one new session in every partition, the partitions taking turns; ids begin with `name`."""
    sessions = {partition: session_on({partition}, PARTITIONS) for partition in partitions}
    return [
        Question(partition, session_id, f"{name}-{partition}-{n}")
        for n in range(each)
        for partition, session_id in sessions.items()
    ]


@dataclass
class Outcomes:
    """Reply events and dead letters of a pipeline, read while they come."""

    pipeline: Pipeline
    _consumer: AIOKafkaConsumer
    replies: dict[str, list[ReplyEvent]] = field(default_factory=lambda: defaultdict(list))
    """By inbound id, each content once."""
    letters: dict[tuple[int, int], ConsumerRecord] = field(default_factory=dict)
    """By partition and offset of the inbound record."""

    @property
    def answered(self) -> set[str]:
        """The inbound ids that got an answer; a notice of failure is none."""
        return {
            inbound_id
            for inbound_id, events in self.replies.items()
            if any(isinstance(event, TurnCompleted) for event in events)
        }

    @property
    def failed(self) -> set[str]:
        """The sessions that were told that a message of theirs was not answered."""
        return {
            event.session_id for events in self.replies.values() for event in events if isinstance(event, TurnFailed)
        }

    async def answers(self, ids: Collection[str], within_s: float = _ANSWERED_WITHIN_S) -> None:
        """Returns when each id got an answer.

        Raises:
            AssertionError: some did not in time; names them.
        """
        end = asyncio.get_running_loop().time() + within_s
        while missing := sorted(set(ids) - self.answered):
            assert asyncio.get_running_loop().time() < end, (
                f"L: {len(missing)} of {len(ids)} not answered within {within_s:g} s, such as {missing[:8]}"
            )
            await self.read()

    async def notice(self, session_id: str) -> None:
        """Returns when the session was told that a message of its was not answered."""
        end = asyncio.get_running_loop().time() + _ANSWERED_WITHIN_S
        while session_id not in self.failed:
            assert asyncio.get_running_loop().time() < end, f"{session_id} was not told that its message failed"
            await self.read()

    async def letter(self, partition: int, offset: int, within_s: float = _ANSWERED_WITHIN_S) -> ConsumerRecord:
        """The dead letter of the inbound record, once it came."""
        end = asyncio.get_running_loop().time() + within_s
        while (partition, offset) not in self.letters:
            assert asyncio.get_running_loop().time() < end, (
                f"L: no dead letter of {partition}:{offset} within {within_s:g} s; those of {sorted(self.letters)}"
            )
            await self.read()
        return self.letters[partition, offset]

    async def read(self) -> None:
        """Takes what has come, or waits for it for a moment."""
        for place, records in (await self._consumer.getmany(timeout_ms=50)).items():
            for record in records:
                if place.topic == self.pipeline.topics.replies:
                    event = decode_reply(record.value)
                    if event not in self.replies[event.inbound_id]:
                        self.replies[event.inbound_id].append(event)
                else:
                    headers = headers_of(record)
                    self.letters[int(headers["dlq.partition"]), int(headers["dlq.offset"])] = record


@asynccontextmanager
async def outcomes_of(pipeline: Pipeline) -> AsyncIterator[Outcomes]:
    """Reads a pipeline's replies and dead letters from their beginning."""
    topics = pipeline.topics
    consumer = AIOKafkaConsumer(
        bootstrap_servers=pipeline.bootstrap_servers, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, n) for topic in (topics.replies, topics.dlq) for n in range(PARTITIONS)])
        yield Outcomes(pipeline, consumer)
    finally:
        await consumer.stop()


def headers_of(record: ConsumerRecord) -> dict[str, str]:
    """Its headers as text."""
    return {name: value.decode(errors="replace") for name, value in record.headers}


async def assert_verified(pipeline: Pipeline, wait_s: float = _SETTLED_WITHIN_S) -> dict[str, int]:
    """L, D, O, U, R and C, by `supportstream verify` once everything is done; what it counted.

    It must see that everything is done, not give up waiting for it: the commits reach the end of every partition.
    """
    began = time.monotonic()
    done = await asyncio.to_thread(pipeline.run, "verify", "--json", "--wait", f"{wait_s:g}")
    assert done.stdout, done.stderr
    found: dict[str, Any] = orjson.loads(done.stdout)
    assert found["ok"], broken(found)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < wait_s, "C: what is committed never came to the end of every partition"
    records: dict[str, int] = found["records"]
    return records


async def health_says(process: Process, path: str = "/health") -> tuple[int, list[str]]:
    """Status of one of the process's health reports, and every text in it."""
    async with httpx.AsyncClient(timeout=5.0) as client:
        response = await client.get(f"{process.url}{path}")
    return response.status_code, list(_texts(response.json()))


def _texts(report: object) -> Iterator[str]:
    if isinstance(report, str):
        yield report
    elif isinstance(report, dict):
        for value in report.values():
            yield from _texts(value)
    elif isinstance(report, list):
        for value in report:
            yield from _texts(value)


async def group_members(pipeline: Pipeline) -> set[str]:
    """The ids of the workers' group's members; one that was expelled comes back under another."""
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        [response] = await admin.describe_consumer_groups([pipeline.group])
    finally:
        await admin.close()
    return {member[0] for group in response.groups for member in group[5]}


async def publish(pipeline: Pipeline, asked: Sequence[Question]) -> None:
    """As a plain Python producer without compression, in order."""
    async with producer(pipeline.bootstrap_servers) as kafka:
        sent = [
            await kafka.send(pipeline.topics.inbound, each.value.encode(), each.session_id.encode(), each.partition)
            for each in asked
        ]
        await asyncio.gather(*sent)
