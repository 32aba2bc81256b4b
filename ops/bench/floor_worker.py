"""The worker half of the hand-written floor: Kafka → one Lua call in Redis → Kafka, in order per session.

The yardstick of `supportstream bench turns`: the reply is a constant, the session a version number, a turn is
one EVALSHA. Reads KAFKA_BOOTSTRAP_SERVERS, REDIS_URL, TOPIC_PREFIX and CONSUMER_GROUP. Start it with
`python -m ops.bench.floor_worker`.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from redis.asyncio import Redis

REPLY_TEXT = "Thank you for your message. We are looking into it."
SESSION_TTL_SECONDS = 3600
APPLIED = -1

COMMIT_TURN = """
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if version ~= tonumber(ARGV[1]) then return version end
redis.call('HSET', KEYS[1], 'version', version + 1, 'reply', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return -1
"""


class FloorWorker:
    """Runs each record's turn as a task behind the previous turn of its session."""

    def __init__(self, producer: AIOKafkaProducer, redis: Redis, script_sha: str, replies: str) -> None:
        self._producer = producer
        self._redis = redis
        self._script_sha = script_sha
        self._replies = replies
        self._versions: dict[bytes, int] = defaultdict(int)
        self._newest: dict[bytes, asyncio.Task[None]] = {}
        self._next_offset: dict[TopicPartition, int] = {}
        self._unfinished: dict[TopicPartition, set[int]] = defaultdict(set)

    async def consume(self, consumer: AIOKafkaConsumer, tasks: asyncio.TaskGroup) -> None:
        """Start the turns of every record that arrives. A turn that fails ends the task group."""
        while True:
            for partition, records in (await consumer.getmany(timeout_ms=1000)).items():
                self._next_offset[partition] = records[-1].offset + 1
                self._unfinished[partition].update(record.offset for record in records)
                for record in records:
                    previous = self._newest.get(record.key)
                    turn = self._turn(partition, record, previous)
                    self._newest[record.key] = tasks.create_task(turn)

    async def commit(self, consumer: AIOKafkaConsumer) -> None:
        """Commit the contiguous prefix of finished offsets once a second."""
        while True:
            await asyncio.sleep(1)
            if self._next_offset:
                await consumer.commit(
                    {
                        partition: min(self._unfinished[partition], default=next_offset)
                        for partition, next_offset in self._next_offset.items()
                    }
                )

    async def _turn(
        self, partition: TopicPartition, record: ConsumerRecord, previous: asyncio.Task[None] | None
    ) -> None:
        if previous:
            await previous
        session = record.key
        message = orjson.loads(record.value)
        stored_version = None
        while stored_version != APPLIED:
            version = self._versions[session]
            reply = {"type": "reply", "seq": version + 1, "id": message["id"], "text": REPLY_TEXT}
            reply_bytes = orjson.dumps(reply)
            stored_version = await self._redis.evalsha(
                self._script_sha, 1, b"session:" + session, version, reply_bytes, SESSION_TTL_SECONDS
            )
            self._versions[session] = version + 1 if stored_version == APPLIED else stored_version
        await self._producer.send_and_wait(self._replies, reply_bytes, session)
        self._unfinished[partition].remove(record.offset)


async def work(bootstrap_servers: str, redis_url: str, topic_prefix: str, group: str) -> None:
    """Answer messages until the process is ended."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(
        f"{topic_prefix}inbound.v1",
        bootstrap_servers=bootstrap_servers,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    # A waiting pool and a timeout per call would cost 40 µs of CPU a turn; the bench has 200 turns in flight.
    redis = Redis.from_url(redis_url, max_connections=1000, socket_timeout=None)
    async with producer, consumer, redis, asyncio.TaskGroup() as tasks:
        script_sha = await redis.script_load(COMMIT_TURN)
        worker = FloorWorker(producer, redis, script_sha, f"{topic_prefix}replies.v1")
        tasks.create_task(worker.commit(consumer))
        await worker.consume(consumer, tasks)


if __name__ == "__main__":
    uvloop.run(
        work(
            os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            os.environ["REDIS_URL"],
            os.environ["TOPIC_PREFIX"],
            os.environ["CONSUMER_GROUP"],
        )
    )
