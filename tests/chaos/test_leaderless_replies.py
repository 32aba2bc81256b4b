"""Some reply partitions have no leader, as when the only replica's broker is away."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.local.kafka import KafkaServer
from ops.local.kafka_cluster import KafkaCluster
from ops.local.redis import RedisServer
from tests.polling import wait_until
from tests.processes import Pipeline, Process
from tests.topic_records import producer, session_on

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

PARTITIONS = 12
CONCURRENCY = 8
EACH = 5
"""Sessions for each partition; those without a leader alone would fill all places several times."""


@pytest.fixture
def pipeline(cluster: KafkaCluster, redis_server: RedisServer, tmp_path: Path) -> Iterator[Pipeline]:
    settings = {"GENERATOR": "null", "TOPIC_REPLICATION_FACTOR": "3", "WORKER_CONCURRENCY": str(CONCURRENCY)}
    with Pipeline(cluster.bootstrap_servers, redis_server.url, tmp_path, settings) as pipeline:
        yield pipeline


async def test_other_sessions_are_answered_while_reply_partitions_have_no_leader(
    pipeline: Pipeline, cluster: KafkaCluster
) -> None:
    """P: turns that wait for a leader hold no places that others need. L: and they are answered when it is back."""
    await make_topics(pipeline)
    worker = pipeline.worker()
    await asyncio.to_thread(pipeline.ready)
    victim, without_leader = await a_broker_and_what_it_leads(cluster, pipeline)
    others = set(range(PARTITIONS)) - without_leader
    assert len(without_leader) * EACH > 2 * CONCURRENCY
    await asyncio.to_thread(victim.kill)
    try:
        # First those that will wait, so that they have the places.
        await publish(pipeline, sorted(without_leader))
        await publish(pipeline, sorted(others))
        await asyncio.to_thread(wait_until, lambda: answered(worker) >= EACH * len(others), "others are answered", 60.0)
        assert answered(worker) == EACH * len(others), "none of those without a leader"
    finally:
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(victim.wait_ready)
    await asyncio.to_thread(wait_until, lambda: answered(worker) == EACH * PARTITIONS, "all are answered", 90.0)
    await asyncio.to_thread(pipeline.must, "verify", "--wait", "30")


async def make_topics(pipeline: Pipeline) -> None:
    """The reply topic with one replica of each partition, the others with three."""
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(pipeline.topics.replies, PARTITIONS, 1)])
    finally:
        await admin.close()
    await asyncio.to_thread(pipeline.must, "topics", "create")


async def a_broker_and_what_it_leads(cluster: KafkaCluster, pipeline: Pipeline) -> tuple[KafkaServer, set[int]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        [described] = await admin.describe_topics([pipeline.topics.replies])
    finally:
        await admin.close()
    victim = cluster.servers[0]
    led = {each["partition"] for each in described["partitions"] if each["leader"] == victim.node.node_id}
    return victim, led


async def publish(pipeline: Pipeline, partitions: list[int]) -> None:
    async with producer(pipeline.bootstrap_servers) as client:
        for partition in partitions:
            for _ in range(EACH):
                session_id = session_on({partition}, PARTITIONS)
                value = orjson.dumps({"text": "Hello?"})
                await client.send_and_wait(pipeline.topics.inbound, value, session_id.encode(), partition)


def answered(worker: Process) -> float:
    return worker.metric("supportstream_turn_seconds_count", outcome="turn.completed")
