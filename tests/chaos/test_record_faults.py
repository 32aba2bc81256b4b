"""Records that nobody can answer, that come twice, or that come where they don't belong."""

import asyncio
import subprocess
import time
from collections import Counter

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from schemas.partition import home_partition
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.chaos.faulty import Faults
from tests.polling import eventually
from tests.processes import Pipeline
from tests.topic_records import committed_offsets, producer

POISON = "#poison"
UNREADABLE = (b"{", b"[]", b'{"text": 7}', b'{"type": "greeting", "text": "Hi"}', b'{"text": ""}')


async def test_records_that_nobody_can_answer(experiment: NewExperiment) -> None:
    """L, P: each is a dead letter, once, and the messages before and after it in its session are answered."""
    async with experiment("records: poison among the traffic") as it:
        worker = it.pipeline.worker(**Faults(poison=POISON).setting())
        await it.start(workers=[worker], ingresses=[it.pipeline.ingress()])
        async with it.fault(), producer(it.pipeline.bootstrap_servers) as kafka:
            for customer in it.traffic.customers[:8]:
                for n, value in enumerate([*UNREADABLE, orjson.dumps({"id": "poison", "text": POISON})]):
                    await send(it, kafka, customer.session_id, value)
                    await send(it, kafka, customer.session_id, message(f"after-{n}"))
            await it.traffic.answered_more(100)
        found = await it.finish()
        letters = await dead_letters(it)
        assert len(letters) == 8 * (len(UNREADABLE) + 1) == found["records"]["dead_letters"]
        assert {letter["attempts"] for letter in letters if letter["reason"] == "internal_error"} == {5}
        assert {letter["reason"] for letter in letters} == {
            "bad_json",
            "unknown_type",
            "invalid_field",
            "internal_error",
        }


async def test_the_dead_letter_topic_is_away(experiment: NewExperiment) -> None:
    """C, P: the record's offset is not committed until it is safe; other sessions of its partition go on."""
    async with experiment("records: dead letter topic away for 4 s") as it:
        worker = it.pipeline.worker(**Faults(dead_letters_away_seconds=4.0).setting())
        await it.start(workers=[worker], ingresses=[it.pipeline.ingress()])
        homes = [home_partition(c.session_id, 12) for c in it.traffic.customers]
        [(partition, _)] = Counter(homes).most_common(1)
        unlucky, *neighbours = [c for c, home in zip(it.traffic.customers, homes, strict=True) if home == partition]
        assert neighbours, "nobody else is on the partition"
        async with it.fault(), producer(it.pipeline.bootstrap_servers) as kafka:
            at = await send(it, kafka, unlucky.session_id, b"{")
            said = {c.name: len(c.said) for c in neighbours}
            end = time.monotonic() + 3.0
            while time.monotonic() < end:
                assert (await committed_offsets(it.pipeline)).get(partition, 0) <= at
            assert all(len(c.said) > said[c.name] + 5 for c in neighbours), "neighbours wait as well"
            await eventually(lambda: is_committed(it, partition, at), "the dead letter is written and committed")
            await it.traffic.answered_more(100)
        assert worker.metric("supportstream_dead_letters_total") == 1
        it.note = f"{len(neighbours)} neighbours went on"
        await it.finish()


@pytest.mark.chaos
async def test_everything_comes_twice(experiment: NewExperiment) -> None:
    """D: by customers who say it again, and by a system that sends it again, with the same id."""
    async with experiment("records: every second one published twice") as it:
        it.traffic.twice = 0.5
        workers = [it.pipeline.worker(), it.pipeline.worker()]
        async with it.fault():
            await it.start(workers=workers, ingresses=[it.pipeline.ingress()])
            await it.traffic.answered_more(500)
        assert it.traffic.sent_twice > 100
        found = await it.finish()
        assert found["records"]["duplicates"] >= it.traffic.sent_twice * 0.9


async def test_records_come_outside_their_home(experiment: NewExperiment) -> None:
    """O, U: without a key, and by a producer that divides keys by CRC32, for sessions that talk on sockets as well."""
    async with experiment("records: null keys and a foreign partitioner") as it:
        workers = [it.pipeline.worker(), it.pipeline.worker()]
        await it.start(workers=workers, ingresses=[it.pipeline.ingress()])
        sessions = [customer.session_id for customer in it.traffic.customers[:12]]
        async with it.fault(), producer(it.pipeline.bootstrap_servers) as kafka:
            for n in range(10):
                for session_id in sessions:
                    value = message(f"keyless-{n}", session_id=session_id)
                    await kafka.send_and_wait(it.pipeline.topics.inbound, value, partition=it.rng.randrange(12))
                lines = [f"{session_id}|{message(f'crc-{n}').decode()}" for session_id in sessions]
                await asyncio.to_thread(by_crc32, it.pipeline, lines)
            await it.traffic.answered_more(100)
        found = await it.finish()
        assert found["records"]["answered"] >= 2 * 10 * len(sessions)
        by_reason = {
            reason: sum(w.metric("supportstream_lock_path_turns_total", reason=reason) for w in workers)
            for reason in ("null_key", "foreign_partition")
        }
        assert all(by_reason.values()), by_reason


async def test_the_broker_takes_no_reply_as_large_as_some_are(experiment: NewExperiment) -> None:
    """L, R: such a message is a dead letter before anything of it is stored, and the next one is answered."""
    async with experiment("records: replies larger than the broker takes") as it:
        await set_largest_reply(it, 4_096)
        await it.start(workers=[it.pipeline.worker()], ingresses=[it.pipeline.ingress()])
        async with it.fault(), producer(it.pipeline.bootstrap_servers) as kafka:
            for customer in it.traffic.customers[:6]:
                await send(it, kafka, customer.session_id, orjson.dumps({"id": "long", "text": "word " * 1_000}))
                await send(it, kafka, customer.session_id, message("after"))
            await it.traffic.answered_more(100)
        await it.finish()
        letters = await dead_letters(it)
        assert [letter["reason"] for letter in letters] == ["reply_too_large"] * 6


async def set_largest_reply(it: Experiment, size: int) -> None:
    """What an operator's broker, or its default for topics, may be set to."""
    admin = AIOKafkaAdminClient(bootstrap_servers=it.pipeline.bootstrap_servers)
    await admin.start()
    try:
        wanted = {"max.message.bytes": str(size)}
        topic = ConfigResource(ConfigResourceType.TOPIC, it.pipeline.topics.replies, configs=wanted)
        await admin.alter_configs([topic])
    finally:
        await admin.close()


def message(id: str, **more: str) -> bytes:
    return orjson.dumps({"id": id, "text": "Is anybody there?", **more})


async def send(it: Experiment, kafka: AIOKafkaProducer, session_id: str, value: bytes) -> int:
    """The record's offset."""
    metadata = await kafka.send_and_wait(it.pipeline.topics.inbound, value, session_id.encode())
    return int(metadata.offset)


async def dead_letters(it: Experiment) -> list[dict[str, object]]:
    listed = await asyncio.to_thread(it.pipeline.must, "dlq", "list", "--json", "--limit", "1000")
    found: list[dict[str, object]] = orjson.loads(listed)
    return found


async def is_committed(it: Experiment, partition: int, offset: int) -> bool:
    return (await committed_offsets(it.pipeline)).get(partition, 0) > offset


def by_crc32(pipeline: Pipeline, lines: list[str]) -> None:
    """As librdkafka's producers divide keys unless told otherwise."""
    target = ("-b", pipeline.bootstrap_servers, "-t", pipeline.topics.inbound)
    subprocess.run(
        ["kcat", "-P", *target, "-K", "|", "-X", "topic.partitioner=consistent"],
        input="\n".join(lines),
        text=True,
        check=True,
        timeout=30,
    )
