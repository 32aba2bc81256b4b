"""A byte that a broker's disk got wrong: its partition stands still and says so, the others go on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer
from tests.neighbours.outcomes import (
    PARTITIONS,
    assert_verified,
    health_says,
    outcomes_of,
    publish,
    questions,
)
from tests.neighbours.segments import StoredBatch, stored_batches
from tests.polling import eventually
from tests.processes import Pipeline, Process
from tests.topic_records import committed_offsets

BROKEN = 6
OTHERS = [partition for partition in range(PARTITIONS) if partition != BROKEN]
METRIC = "supportstream_unreadable_partitions"


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path / "kafka") as server:
        yield server


@pytest.fixture
def own_pipeline(own_kafka: KafkaServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(own_kafka.bootstrap_servers, redis_server.url, tmp_path, {"GENERATOR": "null"}) as pipeline:
        pipeline.must("topics", "create")
        yield pipeline


async def test_a_flipped_bit_stops_its_partition_only_and_nothing_of_it_is_skipped(
    own_kafka: KafkaServer, own_pipeline: Pipeline
) -> None:
    """L, P, C, H: what stands before the broken batch is answered, what follows waits until the disk is right again."""
    inbound = own_pipeline.topics.inbound
    name = f"{inbound}:{BROKEN}"
    before, broken, behind = (questions(name, [BROKEN], each=3) for name in ("before", "broken", "behind"))
    others = questions("others", OTHERS, each=3)
    for asked in ([*before, *others], broken, behind):
        await publish(own_pipeline, asked)
    await asyncio.to_thread(own_kafka.stop)
    batch = batch_with(own_kafka, inbound, len(before))
    batch.flip_a_bit()
    await asyncio.to_thread(own_kafka.start)

    worker = own_pipeline.worker()
    async with outcomes_of(own_pipeline) as outcomes:
        await outcomes.answers([each.id for each in (*before, *others)])
        await names_the_partition(worker, name)
        assert worker.metric(METRIC, topic=inbound, partition=str(BROKEN)) == 1
        assert worker.metric(METRIC) == 1, "the others can be read"
        assert partitions_in_the_log(worker) == {name}
        later = questions("later", OTHERS)
        await publish(own_pipeline, later)
        await outcomes.answers([each.id for each in later])
        held = {each.id for each in (*broken, *behind)}
        assert not held & outcomes.replies.keys()
        assert not outcomes.letters, "a record that can't be read is no dead letter: its bytes may come back"
        assert (await committed_offsets(own_pipeline)).get(BROKEN, 0) <= batch.base_offset

        batch.flip_a_bit()
        await outcomes.answers(held)

    async def well() -> bool:
        return (await health_says(worker, "/health/ready"))[0] == 200 and worker.metric(METRIC) == 0

    await eventually(well, "the worker is ready again")
    assert (await assert_verified(own_pipeline))["dead_letters"] == 0


def batch_with(kafka: KafkaServer, topic: str, offset: int) -> StoredBatch:
    """The batch of the broken partition that holds the offset."""
    batches = stored_batches(kafka.data, topic, BROKEN)
    [found] = [batch for batch in batches if batch.base_offset <= offset <= batch.last_offset]
    return found


def partitions_in_the_log(worker: Process) -> set[str]:
    """Those that the worker logged as unreadable."""
    lines = worker.server.log_path.read_bytes().splitlines()
    events = [orjson.loads(line) for line in lines if line.startswith(b"{")]
    return {event["partition"] for event in events if event["event"] == "partition_unreadable"}


async def names_the_partition(worker: Process, name: str) -> None:
    async def named() -> bool:
        try:
            status, texts = await health_says(worker, "/health/ready")
        except httpx.TransportError:
            return False
        return status == 503 and any(name in text for text in texts)

    await eventually(named, f"/health/ready is 503 and names {name}")
