"""Kafka or Redis is away: nothing that was accepted is lost, clients are told, and all recovers by itself."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio

from ops.local.kafka import KafkaServer
from ops.local.ports import LOOPBACK, free_port
from ops.local.redis import RedisServer
from tests.customers import Customer, customer, message_id
from tests.polling import eventually
from tests.processes import Pipeline, Process
from tests.topic_records import assert_answered_once, assert_in_partition_order, read_log, read_topic

SEND_TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    with KafkaServer(tmp_path_factory.mktemp("own-kafka")) as server:
        yield server


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("own-redis")) as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(
    own_kafka: KafkaServer, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    directory: Path = tmp_path_factory.mktemp("pipeline")
    settings = {"GENERATOR": "null", "KAFKA_SEND_TIMEOUT_SECONDS": str(SEND_TIMEOUT_S), "REDIS_SOCKET_TIMEOUT": "1"}
    with Pipeline(own_kafka.bootstrap_servers, own_redis.url, directory, settings) as pipeline:
        pipeline.must("topics", "create")
        yield pipeline


@pytest.fixture(scope="module")
def ingress(pipeline: Pipeline) -> Process:
    ingress = pipeline.ingress()
    pipeline.worker()
    pipeline.ready()
    return ingress


async def not_ready(ingress: Process, part: str) -> dict[str, Any]:
    """The readiness report, once it names this part."""

    async def report() -> dict[str, Any] | None:
        async with httpx.AsyncClient(timeout=10.0, verify=False) as client:
            response = await client.get(f"{ingress.url}/health/ready")
        body: dict[str, Any] = response.json()
        return body if response.status_code == 503 and part in str(body) else None

    found = await eventually(report, f"/health/ready is 503 and names {part}")
    assert found is not None
    return found


async def alive(ingress: Process) -> bool:
    async with httpx.AsyncClient(timeout=10.0, verify=False) as client:
        return (await client.get(f"{ingress.url}/health/live")).status_code == 200


async def test_the_broker_is_killed_and_comes_back(
    own_kafka: KafkaServer, pipeline: Pipeline, ingress: Process
) -> None:
    async with customer(ingress) as alice, httpx.AsyncClient(base_url=ingress.url, timeout=30.0) as client:
        await alice.ask("Before")
        sent = [await alice.say(f"Just before {n}") for n in range(20)]
        own_kafka.kill()
        refused = await alice.say("Nobody there?")
        error = await alice.get(lambda frame: frame["type"] == "error" and frame.get("id") == refused, "a refusal")
        assert (error["code"], error["retryable"]) == ("unavailable", True)
        began = time.monotonic()
        response = await client.post("/api/v1/chat", json={"text": "Nobody there?"})
        assert time.monotonic() - began < 3 * SEND_TIMEOUT_S
        assert (response.status_code, response.json()["error"]) == (503, "unavailable")
        assert int(response.headers["retry-after"]) > 0
        await not_ready(ingress, "kafka")
        assert await alive(ingress)

        await asyncio.to_thread(own_kafka.restart)
        await asyncio.to_thread(ready, ingress)

        async def answered() -> bool:
            again = await client.post("/api/v1/chat", json={"text": "Back?", "id": message_id(), "wait": 5})
            return again.status_code == 200

        await eventually(answered, "an answer after the broker is back", deadline_s=60)
        reply = await alice.ask("Nobody there?", refused)
        assert reply["type"] == "reply"
        accepted = {frame["id"] for frame in alice.of_type("accepted")}
        for id in accepted:
            await alice.get(lambda frame, id=id: frame["type"] == "reply" and frame["id"] == id, id)  # type: ignore[misc]
        assert accepted <= {*sent, refused, *(frame["id"] for frame in alice.of_type("reply"))}
    log = await read_log(pipeline)
    assert_answered_once(log, accepted)
    assert_in_partition_order(log)


async def test_a_broker_that_hangs_is_an_error_in_time_and_not_for_ever(
    own_kafka: KafkaServer, ingress: Process
) -> None:
    async with customer(ingress) as alice:
        await alice.ask("Before")
        own_kafka.server.pause()
        try:
            began = time.monotonic()
            error = await alice.ask("Nobody there?")
            assert (error["type"], error.get("code")) == ("error", "unavailable")
            assert time.monotonic() - began < 3 * SEND_TIMEOUT_S
        finally:
            own_kafka.server.resume()

        async def answered() -> bool:
            return bool((await alice.ask("Back?"))["type"] == "reply")

        await eventually(answered, "an answer after the broker goes on", deadline_s=60)


async def test_redis_is_away_and_the_lanes_wait(own_redis: RedisServer, pipeline: Pipeline, ingress: Process) -> None:
    """Paused, not killed: it still has its sessions when it comes back."""
    async with customer(ingress) as alice, customer(ingress) as bob:
        await alice.ask("Before")
        own_redis.server.pause()
        try:
            sent = [await alice.say(f"Meanwhile {n}") for n in range(5)]
            others = await bob.say("Me too")
            for id in sent:
                await alice.get(lambda frame, id=id: frame["type"] == "accepted" and frame["id"] == id, "accepted")  # type: ignore[misc]
            await not_ready(ingress, "session_store")
            assert await alive(ingress)
            assert len(alice.of_type("reply")) == 1
        finally:
            own_redis.server.resume()
        await alice.get(lambda frame: frame["type"] == "reply" and frame["id"] == sent[-1], "the last answer")
        await bob.get(lambda frame: frame["type"] == "reply" and frame["id"] == others, "bob's answer")
        assert [frame["id"] for frame in alice.of_type("reply")][1:] == sent
    await asyncio.to_thread(ready, ingress)


async def test_a_redis_that_takes_no_writes_for_a_while_costs_no_message(
    own_redis: RedisServer, pipeline: Pipeline, ingress: Process
) -> None:
    """As in a failover, when clients still talk to the old primary, which is a replica now."""
    async with customer(ingress) as alice, redis.asyncio.Redis.from_url(own_redis.url) as admin:
        await alice.ask("Before")
        errors_before = (await admin.info("stats"))["total_error_replies"]
        await admin.replicaof(LOOPBACK, free_port())
        try:
            id = await alice.say("Meanwhile")
            await alice.get(lambda frame: frame["type"] == "accepted" and frame["id"] == id, "accepted")

            async def refused() -> bool:
                return bool((await admin.info("stats"))["total_error_replies"] > errors_before + 10)

            await eventually(refused, "refused writes")
        finally:
            await admin.replicaof("NO", "ONE")
        await alice.get(lambda frame: frame["type"] == "reply" and frame["id"] == id, "the answer")
    assert not await read_topic(pipeline.bootstrap_servers, pipeline.topics.dlq)


async def test_a_new_redis_without_its_sessions_answers_on(
    own_redis: RedisServer, pipeline: Pipeline, ingress: Process
) -> None:
    before = await Customer.join(ingress)
    await before.ask("Before")
    own_redis.server.kill()
    sent = await before.say("Meanwhile")
    await before.get(lambda frame: frame["type"] == "accepted" and frame["id"] == sent, "accepted")
    await asyncio.to_thread(own_redis.start)
    await before.get(lambda frame: frame["type"] == "reply" and frame["id"] == sent, "the answer")
    async with customer(ingress) as after:
        assert (await after.ask("And somebody new?"))["seq"] == 1
    await before.close()


def ready(ingress: Process) -> None:
    ingress.server.wait_ready(ingress.is_ready, 60)
