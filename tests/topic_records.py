"""What the topics hold, and the invariants of DESIGN §6 read off them."""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from secrets import token_hex

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient

from schemas.fold import evolve
from schemas.inbound import InboundEvent, decode_inbound
from schemas.partition import home_partition
from schemas.replies import ReplyEvent, decode_reply
from schemas.session import SessionData
from store.redis import RedisSessionStore
from store.redis.connect import RedisSettings, connect
from tests.processes import Pipeline


async def read_topic(servers: str, topic: str) -> list[ConsumerRecord]:
    """Every record that the topic holds now; those of one partition in order."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=servers, auto_offset_reset="earliest", max_partition_fetch_bytes=16 * 1024 * 1024
    )
    await consumer.start()
    try:
        places = consumer.assignment()
        assert places, f"no topic {topic}"
        ends = await consumer.end_offsets(places)
        records: list[ConsumerRecord] = []
        for place in places:
            while await consumer.position(place) < ends[place]:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    records.extend(batch)
        return records
    finally:
        await consumer.stop()


@asynccontextmanager
async def producer(servers: str) -> AsyncIterator[AIOKafkaProducer]:
    """A plain producer, as another system has one."""
    client = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@dataclass(frozen=True)
class Log:
    """The inbound and the reply topic of a pipeline, decoded."""

    inbound: Sequence[tuple[ConsumerRecord, InboundEvent]]
    replies: Sequence[tuple[ConsumerRecord, ReplyEvent]]

    def of(self, session_id: str) -> "Log":
        """What of it is about this session."""
        return Log(
            [(record, event) for record, event in self.inbound if event.session_id == session_id],
            [(record, event) for record, event in self.replies if event.session_id == session_id],
        )

    def first_replies(self) -> dict[str, list[ReplyEvent]]:
        """Per session its reply events, the first of each seq, in the topic's order."""
        sessions: dict[str, list[ReplyEvent]] = defaultdict(list)
        seen: set[tuple[str, int, int]] = set()
        for _, event in self.replies:
            place = (event.session_id, event.epoch, event.seq)
            if place not in seen:
                seen.add(place)
                sessions[event.session_id].append(event)
        return sessions

    def folded(self) -> dict[str, SessionData]:
        """Every session, rebuilt from the reply topic alone. Raises SequenceGap where a seq is missing."""
        sessions: dict[str, SessionData] = {}
        for _, event in self.replies:
            sessions[event.session_id] = evolve(sessions.get(event.session_id), event)
        return sessions


async def read_log(pipeline: Pipeline) -> Log:
    servers, topics = pipeline.bootstrap_servers, pipeline.topics
    inbound = await read_topic(servers, topics.inbound)
    replies = await read_topic(servers, topics.replies)
    return Log(
        [(r, decode_inbound(r.value, r.key, r.topic, r.partition, r.offset)) for r in inbound],
        [(r, decode_reply(r.value)) for r in replies],
    )


def assert_answered_once(log: Log, accepted: Collection[str]) -> None:
    """L and D: every accepted id has exactly one turn, whose bytes are the same however often they were published."""
    contents: dict[str, set[str]] = defaultdict(set)
    turns: dict[str, set[str]] = defaultdict(set)
    for record, event in log.replies:
        contents[event.id].add(sha256(record.value).hexdigest())
        turns[event.inbound_id].add(event.id)
    unanswered = set(accepted) - turns.keys()
    assert not unanswered, f"L: {len(unanswered)} accepted and never answered, such as {sorted(unanswered)[:3]}"
    doubled = [inbound_id for inbound_id in accepted if len(turns[inbound_id]) > 1]
    assert not doubled, f"D: several turns for {doubled[:3]}"
    rewritten = [turn for turn, hashes in contents.items() if len(hashes) > 1]
    assert not rewritten, f"D: {len(rewritten)} turns were published with different contents: {rewritten[:3]}"


def assert_in_partition_order(log: Log) -> None:
    """O: per session, seq counts from 1 without a gap in each epoch, and the turns are in the order of their inbound
    records."""
    order: dict[str, list[str]] = defaultdict(list)
    for _, event in log.inbound:
        if event.id not in order[event.session_id]:
            order[event.session_id].append(event.id)
    for session_id, events in log.first_replies().items():
        for _, life in groupby(events, lambda event: event.epoch):
            seqs = [event.seq for event in life]
            assert seqs == list(range(1, len(seqs) + 1)), f"O: {session_id} has gaps in seq"
        assert [event.inbound_id for event in events] == order[session_id], f"O: {session_id} was answered out of order"


async def assert_store_is_the_fold(pipeline: Pipeline, log: Log) -> None:
    """U and R: what the store has of each session is the fold of the reply topic, byte for byte."""
    store = session_store(pipeline)
    try:
        for session_id, folded in log.folded().items():
            stored = await store.load(session_id)
            assert stored is not None, f"U: the store has no {session_id}"
            assert stored.session.to_json() == folded.to_json(), f"U, R: {session_id}"
    finally:
        await store.close()


def session_store(pipeline: Pipeline) -> RedisSessionStore:
    """The pipeline's sessions; to be closed."""
    return RedisSessionStore(
        connect(RedisSettings(pipeline.redis_url)), ttl_seconds=3_600, key_prefix=pipeline.key_prefix
    )


async def committed_offsets(pipeline: Pipeline) -> dict[int, int]:
    """Per inbound partition, what the workers' group has committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(pipeline.group)
    finally:
        await admin.close()
    return {place.partition: found.offset for place, found in offsets.items() if place.topic == pipeline.topics.inbound}


def session_on(partitions: Collection[int], count: int = 12) -> str:
    """A new session id whose home is one of these partitions."""
    while True:
        session_id = f"shop:{token_hex(6)}"
        if home_partition(session_id, count) in partitions:
            return session_id
