"""Creates the two topics of the hand-written floor. Start it with `python -m ops.bench.floor_topics`."""

from __future__ import annotations

import asyncio
import os

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

PARTITIONS = 12


async def create_topics(bootstrap_servers: str, topic_prefix: str) -> None:
    """Create the inbound and the reply topic with one replica each.

    Raises aiokafka.errors.TopicAlreadyExistsError.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics(
            [
                NewTopic(f"{topic_prefix}{topic}", num_partitions=PARTITIONS, replication_factor=1)
                for topic in ("inbound.v1", "replies.v1")
            ]
        )
    finally:
        await admin.close()


if __name__ == "__main__":
    asyncio.run(create_topics(os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["TOPIC_PREFIX"]))
