"""The floor of `bench replay`: a bare consumer that writes the bytes it reads to Redis, grouped, and decides nothing.

It writes what a rebuild leaves there: per session a hash with as many bytes as a state has, and a list of the events.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from typing import Any

import hiredis
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis

STATE = b"x" * 1_400
"""About what a state of 20 turns takes."""
TTL_MS = 86_400_000
_POLL_RECORDS = 4_000


async def run(servers: str, topic: str, redis_url: str) -> int:
    """Reads the whole topic; returns how many records."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    redis = Redis.from_url(redis_url)
    connection: Any = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        first = TopicPartition(topic, 0)
        consumer.assign([first])
        ends = await consumer.end_offsets([first])
        places = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        read, total = 0, sum(ends.values())
        while read < total:
            batches = await consumer.getmany(timeout_ms=1_000, max_records=_POLL_RECORDS)
            events: dict[bytes, list[bytes]] = defaultdict(list)
            for records in batches.values():
                for record in records:
                    events[record.key].append(record.value)
                read += len(records)
            commands: list[tuple[Any, ...]] = []
            for key, values in events.items():
                session = b"floor:{" + key + b"}"
                commands.append(("HSET", session, "state", STATE))
                commands.append(("RPUSH", session + b":events", *values))
                commands.append(("PEXPIRE", session, TTL_MS))
                commands.append(("PEXPIRE", session + b":events", TTL_MS))
            await connection.send_packed_command(b"".join([hiredis.pack_command(each) for each in commands]))
            for _ in commands:
                await connection.read_response()
        return read
    finally:
        await redis.connection_pool.release(connection)
        await redis.aclose()
        await consumer.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--servers", "--topic", "--redis"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    began = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        read = runner.run(run(arguments.servers, arguments.topic, arguments.redis))
    sys.stdout.write(orjson.dumps({"records": read, "seconds": time.perf_counter() - began}).decode())


if __name__ == "__main__":
    main()
