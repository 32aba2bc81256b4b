"""Fills a reply topic for `bench replay`, as years of conversations would have."""

from __future__ import annotations

import argparse
import asyncio
import random

from aiokafka import AIOKafkaProducer

from ops.bench.conversations import Conversation
from schemas.partition import home_partition

PARTITIONS = 12
TURNS = 20
"""Per conversation."""
AT_ONCE = 2_000
"""Conversations that are under way at the same time, their records mixed."""
_IN_FLIGHT = 20_000


async def fill(servers: str, topic: str, records: int) -> None:
    """`records` turns of `records / TURNS` conversations."""
    rng = random.Random(records)
    left = records // TURNS
    under_way = [Conversation() for _ in range(min(AT_ONCE, left))]
    left -= len(under_way)
    said = dict.fromkeys(under_way, 0)
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks=1, linger_ms=20, max_batch_size=262_144)
    await producer.start()
    try:
        sent = []
        while under_way:
            place = rng.randrange(len(under_way))
            conversation = under_way[place]
            turn = conversation.next_turn()
            said[conversation] += 1
            if said[conversation] == TURNS:
                del said[conversation]
                if left:
                    left -= 1
                    under_way[place] = Conversation()
                    said[under_way[place]] = 0
                else:
                    under_way[place] = under_way[-1]
                    under_way.pop()
            key = conversation.session_id
            home = home_partition(key, PARTITIONS)
            sent.append(await producer.send(topic, turn.reply, key.encode(), home))
            if len(sent) >= _IN_FLIGHT:
                await asyncio.gather(*sent)
                sent.clear()
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--records", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(fill(arguments.servers, arguments.topic, arguments.records))


if __name__ == "__main__":
    main()
