"""Records compressed by Java, librdkafka, kafkajs or the broker are answered, and so is everything beside them."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from ops.local.kafka import KafkaServer
from schemas.topics import topic_specs
from tests.neighbours.java_producer import Batch, JavaProducer
from tests.neighbours.kafkajs_producer import KafkajsProducer
from tests.neighbours.kcat import CODECS, Codec, Kcat
from tests.neighbours.outcomes import PARTITIONS, Question, assert_verified, outcomes_of, publish, questions
from tests.neighbours.segments import stored_batches
from tests.polling import eventually
from tests.processes import Pipeline

PLAIN_PER_PARTITION = 20
TOGETHER = 8
"""Records of one session in a batch: alike, so that compressing them makes them smaller."""


@pytest.fixture(scope="module")
def running(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    """With a worker. Other tests go on with it."""
    with new_pipeline(GENERATOR="null") as pipeline:
        pipeline.worker()
        yield pipeline


def codecs_on_disk(kafka: KafkaServer, pipeline: Pipeline, partition: int) -> set[str]:
    return {batch.codec for batch in stored_batches(kafka.data, pipeline.topics.inbound, partition)}


def pairs(asked: list[Question]) -> list[tuple[str, str]]:
    return [(each.session_id, each.value) for each in asked]


async def test_messages_that_wait_beside_compressed_ones_are_all_answered(
    pipeline: Pipeline, kafka: KafkaServer, java: JavaProducer, kcat: Kcat
) -> None:
    plain = questions("plain", each=PLAIN_PER_PARTITION)
    half = len(plain) // 2
    inbound = pipeline.topics.inbound
    await publish(pipeline, plain[:half])
    compressed: list[Question] = []
    for number, codec in enumerate(CODECS):
        ours = questions(f"java-{codec}", [number], each=TOGETHER)
        batch = Batch([each.outgoing() for each in ours])
        await asyncio.to_thread(java.send, inbound, [batch], compression_type=codec)
        theirs = questions(f"kcat-{codec}", [4 + number], each=TOGETHER)
        await asyncio.to_thread(kcat.send, inbound, pairs(theirs), codec=codec, partition=4 + number)
        compressed += ours + theirs
    await publish(pipeline, plain[half:])
    for number, codec in enumerate(CODECS):
        assert codecs_on_disk(kafka, pipeline, number) == {"none", codec}, "Java compressed nothing"
        assert codecs_on_disk(kafka, pipeline, 4 + number) == {"none", codec}, "kcat compressed nothing"

    pipeline.worker()
    async with outcomes_of(pipeline) as outcomes:
        await outcomes.answers([each.id for each in (*plain, *compressed)])
    assert (await assert_verified(pipeline))["answered"] == len(plain) + len(compressed)


async def test_kafkajs_with_gzip_is_answered_wherever_its_partitioner_puts_it(
    running: Pipeline, kafkajs: KafkajsProducer, kafka: KafkaServer
) -> None:
    """Its default partitioner is Java's murmur2, so sessions are at home; that of kafkajs 1 knows other homes."""
    inbound = running.topics.inbound
    asked: list[Question] = []
    for partitioner in ("default", "java", "legacy"):
        fresh = questions(f"kafkajs-{partitioner}", each=TOGETHER)
        found = await asyncio.to_thread(kafkajs.send, inbound, pairs(fresh), gzip=True, partitioner=partitioner)
        at_home = [partition == each.partition for partition, each in zip(found, fresh, strict=True)]
        assert all(at_home) if partitioner != "legacy" else not all(at_home)
        asked += fresh
    assert "gzip" in codecs_on_disk(kafka, running, 0), "kafkajs compressed nothing"
    async with outcomes_of(running) as outcomes:
        await outcomes.answers([each.id for each in asked])
    await assert_verified(running)


async def test_librdkafka_finds_the_home_partition_only_by_murmur2(running: Pipeline, kcat: Kcat) -> None:
    inbound = running.topics.inbound
    at_home, elsewhere = questions("murmur2", each=TOGETHER), questions("crc32", each=TOGETHER)
    await asyncio.to_thread(kcat.send, inbound, pairs(at_home), codec="zstd", partitioner="murmur2_random")
    await asyncio.to_thread(kcat.send, inbound, pairs(elsewhere), codec="lz4")
    async with outcomes_of(running) as outcomes:
        await outcomes.answers([each.id for each in (*at_home, *elsewhere)])
        stood = {
            inbound_id: event.source.partition
            for inbound_id, events in outcomes.replies.items()
            for event in events
            if event.source is not None
        }
    assert all(stood[each.id] == each.partition for each in at_home)
    assert not all(stood[each.id] == each.partition for each in elsewhere)
    await assert_verified(running)


async def test_what_the_broker_compresses_by_itself_is_answered(running: Pipeline, kafka: KafkaServer) -> None:
    asked: list[Question] = []
    async with outcomes_of(running) as outcomes:
        for codec in CODECS:
            await compress_on_the_broker(running, codec)
            fresh = questions(f"broker-{codec}", each=TOGETHER)

            async def compressed(codec: Codec = codec, fresh: list[Question] = fresh) -> bool:
                await publish(running, fresh)
                return all(codec in codecs_on_disk(kafka, running, n) for n in range(PARTITIONS))

            # The broker learns of its own setting a moment later; the same ids again are duplicates.
            await eventually(compressed, f"the broker compresses with {codec}")
            asked += fresh
        await outcomes.answers([each.id for each in asked])
    await assert_verified(running)


async def compress_on_the_broker(pipeline: Pipeline, codec: Codec) -> None:
    """Sets the inbound topic's `compression.type`."""
    inbound = pipeline.topics.inbound
    configs = next(spec.configs for spec in topic_specs(pipeline.topics, PARTITIONS) if spec.name == inbound)
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, inbound, {**configs, "compression.type": codec})
        await admin.alter_configs([resource])
    finally:
        await admin.close()
