"""Records that are larger than a dead letter may be: they become one all the same, without their value."""

import asyncio
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer
from tests.neighbours.java_producer import Batch, JavaProducer, Outgoing
from tests.neighbours.outcomes import (
    PARTITIONS,
    Outcomes,
    Question,
    assert_verified,
    headers_of,
    health_says,
    outcomes_of,
    publish,
    questions,
)
from tests.polling import eventually
from tests.processes import Pipeline
from tests.topic_records import committed_offsets

HOME = 3
BROKERS_DEFAULT_BYTES = 1_048_588
"""`max.message.bytes` of a topic for which nothing is set."""


@pytest.fixture
def tight_pipeline(kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Pipeline]:
    """An operator made two of its topics before: inbound takes 5 MB, the dead letter topic what brokers take by
    default."""
    with Pipeline(kafka.bootstrap_servers, redis_server.url, tmp_path, {"GENERATOR": "null"}) as pipeline:
        asyncio.run(make_topics(pipeline))
        pipeline.must("topics", "create")
        yield pipeline


async def make_topics(pipeline: Pipeline) -> None:
    limits = {pipeline.topics.inbound: 5_000_000, pipeline.topics.dlq: BROKERS_DEFAULT_BYTES}
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        made = await admin.create_topics(
            [
                NewTopic(name, PARTITIONS, 1, topic_configs={"max.message.bytes": str(limit)})
                for name, limit in limits.items()
            ]
        )
    finally:
        await admin.close()
    assert all(code == 0 for _, code, *_ in made.topic_errors), made


async def test_a_gzip_record_of_3_mb_is_a_dead_letter_without_value_and_its_neighbours_are_answered(
    pipeline: Pipeline, java: JavaProducer
) -> None:
    pipeline.worker()
    [large] = questions("large", [HOME])
    record = large.outgoing(padding=3_000_000)
    neighbours = questions("neighbour", each=4)
    await publish(pipeline, neighbours[: len(neighbours) // 2])
    [offset] = await asyncio.to_thread(java.send, pipeline.topics.inbound, [Batch([record])], compression_type="gzip")
    await publish(pipeline, neighbours[len(neighbours) // 2 :])
    async with outcomes_of(pipeline) as outcomes:
        await assert_without_value(outcomes, large, offset, record.value_bytes)
        await outcomes.answers([each.id for each in neighbours])
    await assert_committed(pipeline, HOME, offset)
    found = await assert_verified(pipeline)
    assert (found["answered"], found["dead_letters"]) == (len(neighbours), 1)


async def test_a_dead_letter_topic_that_takes_less_than_inbound_gets_the_letter_without_value(
    tight_pipeline: Pipeline, java: JavaProducer
) -> None:
    worker = tight_pipeline.worker()
    large, small, neighbour = questions("first", [HOME], each=3)
    noise = "".join(random.Random(1).choices("abcdefghij", k=1_500_000))  # compressed, it would still be 0.6 MB
    values = [each.value.replace("This is", noise[:size]) for each, size in ((large, 1_500_000), (small, 500_000))]
    records = [Outgoing(large.session_id, value, HOME) for value in values]
    offsets = await asyncio.to_thread(
        java.send, tight_pipeline.topics.inbound, [Batch([record]) for record in (*records, neighbour.outgoing())]
    )
    async with outcomes_of(tight_pipeline) as outcomes:
        await assert_without_value(outcomes, large, offsets[0], records[0].value_bytes)
        letter = await outcomes.letter(HOME, offsets[1])
        assert letter.value == records[1].value_bytes, "a letter that fits has its value"
        await outcomes.answers([neighbour.id])
    await assert_committed(tight_pipeline, HOME, offsets[2])
    assert (await health_says(worker, "/health/ready"))[0] == 200
    assert (await assert_verified(tight_pipeline))["dead_letters"] == 2


async def assert_without_value(outcomes: Outcomes, large: Question, offset: int, value: bytes) -> None:
    """The record's dead letter says what it was, and the customer that it was not answered."""
    letter = await outcomes.letter(large.partition, offset)
    headers = headers_of(letter)
    assert not letter.value
    assert letter.key == large.session_id.encode()
    assert headers["dlq.reason"]
    assert (headers["dlq.size"], headers["dlq.digest"]) == (str(len(value)), sha256(value).hexdigest())
    first = dict(letter.headers)["dlq.first_bytes"]
    assert first
    assert value.startswith(first)
    await outcomes.notice(large.session_id)


async def assert_committed(pipeline: Pipeline, partition: int, offset: int) -> None:
    """C: the group goes on behind the record."""

    async def passed() -> bool:
        return (await committed_offsets(pipeline)).get(partition, 0) > offset

    await eventually(passed, f"{partition}:{offset} is committed")
