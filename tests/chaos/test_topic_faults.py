"""The topics change under the pipeline: partitions are added, a topic is created again, retention takes records."""

import asyncio
import time
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from schemas.partition import home_partition
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.polling import eventually, wait_until
from tests.processes import Pipeline, Process, partitions_of
from tests.topic_records import committed_offsets, producer

BEFORE, AFTER = 4, 8


async def test_partitions_are_added_while_everybody_talks(experiment: NewExperiment) -> None:
    """O: every session goes on, in order, also across the move; nobody restarts anything."""
    settings = {"TOPIC_PARTITIONS": str(BEFORE), "KAFKA_METADATA_MAX_AGE_SECONDS": "1"}
    async with experiment("topics: partitions added", **settings) as it:
        workers = [it.pipeline.worker(), it.pipeline.worker()]
        await it.start(workers=workers, ingresses=[it.pipeline.ingress(), it.pipeline.ingress()])
        async with it.fault():
            told = await asyncio.to_thread(it.pipeline.must, "topics", "grow", str(AFTER), "--execute")
            assert "sessions get another home" in told
            await it.traffic.answered_more(100)
            await asyncio.to_thread(shared, workers, AFTER)
            await moved(it)
            await it.traffic.answered_more(200)
        again = await asyncio.to_thread(
            it.pipeline.run, "topics", "grow", str(AFTER), "--execute", TOPIC_PARTITIONS=str(AFTER)
        )
        assert "All topics have 8 partitions" in again.stderr
        await asyncio.to_thread(it.pipeline.must, "topics", "check", TOPIC_PARTITIONS=str(AFTER))
        on_lock = sum(worker.metric("supportstream_lock_path_turns_total") for worker in workers)
        it.note = f"{on_lock:g} turns under the lock"
        await it.finish()
        await assert_asked_in_order(it)


def shared(workers: list[Process], count: int) -> None:
    wait_until(
        lambda: set.union(*map(partitions_of, workers)) == set(range(count)), f"the workers share {count} partitions"
    )


async def moved(it: Experiment) -> None:
    """Returns when sessions of customers with a new home are answered there."""
    homes = {
        customer.session_id: home_partition(customer.session_id, AFTER)
        for customer in it.traffic.customers
        if home_partition(customer.session_id, AFTER) >= BEFORE
    }
    assert homes, "nobody gets another home"

    consumer = AIOKafkaConsumer(bootstrap_servers=it.pipeline.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(it.pipeline.topics.inbound, number) for number in range(BEFORE, AFTER)])
        there: set[str] = set()
        deadline = time.monotonic() + 60.0
        while not homes.keys() <= there:
            assert time.monotonic() < deadline, f"{len(homes.keys() - there)} sessions are not at their new home"
            it.traffic.raise_what_failed()
            batches = await consumer.getmany(timeout_ms=500)
            there |= {record.key.decode() for records in batches.values() for record in records if record.key}
    finally:
        await consumer.stop()


async def assert_asked_in_order(it: Experiment) -> None:
    """O across partitions: what a customer said first is answered first."""
    exported = await asyncio.to_thread(it.pipeline.must, "export")
    answered: dict[str, dict[int, str]] = {}
    for line in exported.splitlines():
        event = orjson.loads(line)["data"]
        answered.setdefault(event["session_id"], {})[event["seq"]] = event["inbound_id"]
    for customer in it.traffic.customers:
        ids = [id for _, id in sorted(answered[customer.session_id].items()) if id.startswith(customer.name + "-")]
        assert ids == [said.id for said in customer.said]


@pytest.mark.chaos
async def test_a_topic_that_was_created_again_is_refused_until_somebody_adopts_it(experiment: NewExperiment) -> None:
    """L: nothing of the new topic is skipped because the old one had come further."""
    async with experiment("topics: inbound topic created again", customers=6) as it:
        worker, ingress = it.pipeline.worker(), it.pipeline.ingress()
        await it.start(workers=[worker], ingresses=[ingress])
        await it.traffic.answered_more(100)
        await it.traffic.stop()
        await it.verify()
        worker.server.stop()
        ingress.server.stop()
        async with it.fault():
            await create_again(it.pipeline, it.pipeline.topics.inbound)
            refusing = it.pipeline.worker()
            told = await asyncio.to_thread(refusal, refusing)
            assert f"supportstream topics adopt {it.pipeline.topics.inbound}" in told
            busy = await asyncio.to_thread(it.pipeline.run, "topics", "adopt", it.pipeline.topics.inbound)
            assert "Stop them first" in busy.stderr
            refusing.server.stop()
            plan = await asyncio.to_thread(it.pipeline.must, "topics", "adopt", it.pipeline.topics.inbound)
            assert "add --execute" in plan
            await asyncio.to_thread(it.pipeline.must, "topics", "adopt", it.pipeline.topics.inbound, "--execute")
            it.pipeline.worker()
            before = it.begin_anew()
            async with producer(it.pipeline.bootstrap_servers) as kafka:
                for customer in before.customers:
                    value = orjson.dumps({"id": "after-all", "text": "Are you still there?"})
                    await kafka.send_and_wait(it.pipeline.topics.inbound, value, customer.session_id.encode())
            await it.start(workers=it.pipeline.workers, ingresses=[it.pipeline.ingress()])
            await it.traffic.answered_more(100)
        found = await it.finish()
        assert found["records"]["answered"] >= 100 + len(before.customers)


async def create_again(pipeline: Pipeline, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])

        async def gone() -> bool:
            return topic not in await admin.list_topics()

        await eventually(gone, f"{topic} is gone")
    finally:
        await admin.close()
    await eventually(lambda: created(pipeline), f"{topic} is there again")


async def created(pipeline: Pipeline) -> bool:
    return (await asyncio.to_thread(pipeline.run, "topics", "create")).returncode == 0


def refusal(worker: Process) -> str:
    return wait_until(lambda: log_line(worker.server.log_path, "partition_refused"), "the partition is refused")


def log_line(path: Path, event: str) -> str:
    """The first line of a log that tells of this event; empty if there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if event in line), "")


async def test_what_retention_took_before_it_was_read_is_said_and_counted(experiment: NewExperiment) -> None:
    """The records are gone for good; that they are must not be silent, and everybody else goes on."""
    async with experiment("topics: retention passed the committed offsets", customers=6) as it:
        worker = it.pipeline.worker()
        await it.start(workers=[worker], ingresses=[it.pipeline.ingress()])
        await it.traffic.answered_more(50)
        await it.traffic.stop()
        worker.server.stop()
        partition, count = 0, 20
        before = (await committed_offsets(it.pipeline)).get(partition, 0)
        async with it.fault():
            async with producer(it.pipeline.bootstrap_servers) as kafka:
                for n in range(count):
                    value = orjson.dumps({"id": f"lost-{n}", "text": "Anybody?"})
                    await kafka.send_and_wait(it.pipeline.topics.inbound, value, b"system:lost", partition=partition)
            assert await delete_all(it.pipeline, partition) == before + count
            heir = it.pipeline.worker()
            it.begin_anew()
            await it.start(workers=[heir], ingresses=[it.pipeline.ingress()])
            assert heir.metric("supportstream_records_lost_total") == (count if before else 0)
            assert not before or log_line(heir.server.log_path, "records_lost_to_retention")
            await it.traffic.answered_more(50)
        it.note = f"{count} records counted as lost"
        await it.finish()


async def delete_all(pipeline: Pipeline, partition: int) -> int:
    """What retention does, at once: returns where the log begins now."""
    admin = AIOKafkaAdminClient(bootstrap_servers=pipeline.bootstrap_servers)
    await admin.start()
    try:
        place = TopicPartition(pipeline.topics.inbound, partition)
        await admin.describe_topics([place.topic])
        await admin._client.add_topic(place.topic)
        deleted = await admin.delete_records({place: RecordsToDelete(before_offset=-1)})
        return int(deleted[place])
    finally:
        await admin.close()
