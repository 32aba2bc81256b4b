"""Connections to Redis and Kafka that are reset, idle or in the middle of an exchange, or that fall silent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from ops.local.kafka import KafkaServer
from ops.local.kafka_config import KafkaNode
from ops.local.ports import LOOPBACK, free_ports
from ops.local.redis import RedisServer
from tests.neighbours.outcomes import PARTITIONS, assert_verified, health_says, outcomes_of
from tests.neighbours.rest_callers import RestCallers
from tests.neighbours.rst_proxy import RstProxy, Side
from tests.polling import eventually
from tests.processes import Pipeline, Process
from tests.topic_records import committed_offsets

RESETS = 20
SETTLED_WITHIN_S = 30.0
CUTS = list(product((Side.CLIENT, Side.SERVER), (Side.CLIENT, Side.SERVER, Side.BOTH)))
"""Whose bytes are cut, and towards whom RST goes."""


@dataclass(frozen=True)
class Behind:
    """A pipeline that reaches Redis and Kafka through proxies only."""

    pipeline: Pipeline
    ingress: Process
    worker: Process
    redis: RstProxy
    kafka: RstProxy

    def proxy(self, server: str) -> RstProxy:
        return self.redis if server == "redis" else self.kafka


@pytest.fixture(scope="module")
def behind(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    directory: Path = tmp_path_factory.mktemp("behind-proxies")
    with ExitStack() as running:
        port, controller_port, proxied_port = free_ports(3)
        kafka = running.enter_context(RstProxy(proxied_port))
        redis = running.enter_context(RstProxy(redis_server.port))
        node = proxied_node(port, controller_port, proxied_port, kafka)
        running.enter_context(KafkaServer(directory / "kafka", node=node))
        settings = {"GENERATOR": "null", "REDIS_SOCKET_TIMEOUT": "1"}
        url = f"redis://{redis.address}/0"
        pipeline = running.enter_context(Pipeline(kafka.address, url, directory, settings))
        pipeline.must("topics", "create")
        ingress, worker = pipeline.ingress(), pipeline.worker()
        pipeline.ready()
        yield Behind(pipeline, ingress, worker, redis, kafka)


def proxied_node(port: int, controller_port: int, proxied_port: int, proxy: RstProxy) -> KafkaNode:
    """A node with one more listener, which it tells its clients to reach at the proxy."""
    own, proxied = f"CLIENTS://{LOOPBACK}:{port}", f"PROXIED://{LOOPBACK}:{proxied_port}"
    overrides = {
        "listeners": f"{own},{proxied},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"{own},PROXIED://{proxy.address}",
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }
    return KafkaNode(1, port, controller_port, overrides=overrides)


@asynccontextmanager
async def callers_of(behind: Behind) -> AsyncIterator[RestCallers]:
    """Callers who have asked once; afterwards everything that they asked must be answered, committed and right."""
    callers = RestCallers(behind.ingress)
    await callers.begin()
    await callers.ask_once()
    try:
        yield callers
    finally:
        await callers.stop()
    assert not callers.faults, (
        f"REST answered {len(callers.faults)} times with what no client expects: {callers.faults[:3]}"
    )
    async with outcomes_of(behind.pipeline) as outcomes:
        await outcomes.answers(callers.ids)
    await assert_committed_to_the_end(behind.pipeline)
    await asyncio.to_thread(behind.pipeline.ready)
    await assert_verified(behind.pipeline)


async def assert_committed_to_the_end(pipeline: Pipeline) -> None:
    """C, and that the commits still go on."""
    consumer = AIOKafkaConsumer(bootstrap_servers=pipeline.bootstrap_servers)
    await consumer.start()
    try:
        found = await consumer.end_offsets([TopicPartition(pipeline.topics.inbound, n) for n in range(PARTITIONS)])
    finally:
        await consumer.stop()
    ends = {place.partition: end for place, end in found.items() if end}

    async def committed() -> bool:
        offsets = await committed_offsets(pipeline)
        return all(offsets.get(partition) == end for partition, end in ends.items())

    await eventually(committed, f"the group has committed {ends}", SETTLED_WITHIN_S)


@pytest.mark.parametrize("server", ["redis", "kafka"])
async def test_every_idle_connection_is_reset_and_the_next_questions_are_answered(behind: Behind, server: str) -> None:
    proxy = behind.proxy(server)
    async with callers_of(behind) as callers:
        for towards in Side:
            assert proxy.reset_all(towards) >= 2, "worker and ingress have a connection each"
            for process in (behind.worker, behind.ingress):
                assert (await health_says(process))[0] in (200, 503), "a health report fails"
            proxy.reset_all(towards)
            await callers.ask_once()


@pytest.mark.parametrize("server", ["redis", "kafka"])
async def test_connections_are_reset_in_mid_traffic_and_everything_is_answered(behind: Behind, server: str) -> None:
    proxy = behind.proxy(server)
    async with callers_of(behind) as callers:
        before = proxy.resets
        await callers.start()
        for number, (cut, towards) in enumerate(islice(cycle(CUTS), RESETS)):
            proxy.reset_next_exchange(cut, towards)

            async def reset() -> bool:
                callers.raise_what_failed()
                return not proxy.armed

            await eventually(reset, f"a reset after bytes of the {cut}")
            if number % 4 == 3:
                # Also those that happen to have nothing to say.
                proxy.reset_all(towards)
        await callers.stop()
        assert proxy.resets - before > RESETS


async def test_redis_falls_silent_for_a_while_and_everything_is_answered(behind: Behind) -> None:
    async with callers_of(behind) as callers:
        await callers.start()
        with behind.redis.silence():

            async def not_ready() -> bool:
                return not await asyncio.to_thread(behind.worker.is_ready)

            await eventually(not_ready, "the worker says that it can't reach Redis")
        await callers.stop()
    assert behind.redis.swallowed_bytes
