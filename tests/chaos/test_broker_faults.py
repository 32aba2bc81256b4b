"""Brokers die, one after the other stops, their disk is full, and the network to them is cut or slow."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ops.local.kafka import KafkaServer
from ops.local.kafka_cluster import KafkaCluster
from ops.local.redis import RedisServer
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.chaos.network import NetworkNamespace
from tests.chaos.small_disk import SmallDisk
from tests.chaos.test_worker_faults import owns
from tests.polling import eventually, wait_until
from tests.processes import Process

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(420)]

CUT_S = 6.0
"""Longer than the group's session timeout."""


async def start(it: Experiment) -> list[Process]:
    """Two workers and two ingresses."""
    workers = [it.pipeline.worker(), it.pipeline.worker()]
    await it.start(workers=workers, ingresses=[it.pipeline.ingress(), it.pipeline.ingress()])
    return workers


async def test_a_broker_is_killed(experiment: NewExperiment, cluster: KafkaCluster) -> None:
    """With it go a third of the partitions' leaders, and perhaps the group's coordinator."""
    async with experiment("broker: kill -9 of one of three", kafka=cluster.bootstrap_servers) as it:
        await start(it)
        victim = it.rng.choice(cluster.servers)
        led = await led_by(cluster, it, victim)
        assert led, "it leads nothing"
        async with it.fault(), restarted(victim, cluster, it):
            await asyncio.to_thread(victim.kill)
            assert it.exit_code(victim.server) == -9
            await eventually(lambda: nothing_led_by(cluster, it, victim), "other brokers lead", 60.0)
            await it.traffic.answered_more(300, within_s=90.0)
        it.note = f"led {len(led)} partitions"
        await it.finish()


async def test_all_brokers_are_restarted_one_after_the_other(experiment: NewExperiment, cluster: KafkaCluster) -> None:
    async with experiment("broker: rolling restart of all three", kafka=cluster.bootstrap_servers) as it:
        await start(it)
        async with it.fault():
            for broker in it.rng.sample(cluster.servers, 3):
                before = broker.server.pid
                await asyncio.to_thread(broker.restart)
                assert broker.server.pid != before
                await eventually(lambda: all_in_sync(cluster, it), "all replicas are in sync", 90.0)
                await it.traffic.answered_more(100, within_s=90.0)
        await it.finish()


async def test_leaders_move(experiment: NewExperiment, cluster: KafkaCluster) -> None:
    """Without a crash: a broker stops in order and comes back, and its partitions go away and stay there."""
    async with experiment("broker: leaders move, clean stop", kafka=cluster.bootstrap_servers) as it:
        await start(it)
        broker = it.rng.choice(cluster.servers)
        assert await led_by(cluster, it, broker)
        async with it.fault(), restarted(broker, cluster, it):
            await asyncio.to_thread(broker.stop)
            await eventually(lambda: nothing_led_by(cluster, it, broker), "other brokers lead", 60.0)
            await it.traffic.answered_more(200, within_s=90.0)
        await it.finish()


async def test_the_disk_of_a_broker_is_full(experiment: NewExperiment, tmp_path: Path) -> None:
    """Kafka gives up a broker whose only log directory fails; the two others go on."""
    small = {"log.index.size.max.bytes": 65_536, "log.segment.bytes": 1_048_576, "log.cleaner.enable": "false"}
    disk = SmallDisk(tmp_path / "cluster" / "node-1", 400)
    with disk:
        cluster = KafkaCluster(tmp_path / "cluster", overrides=small)
        with cluster:
            victim = cluster.servers[0]
            async with experiment("broker: disk full", kafka=cluster.bootstrap_servers) as it:
                await start(it)
                async with it.fault():
                    await asyncio.to_thread(disk.fill)
                    await asyncio.to_thread(wait_until, lambda: not victim.server.running, "the broker gives up", 90.0)
                    await it.traffic.answered_more(300, within_s=90.0)
                    disk.free()
                    await asyncio.to_thread(victim.start)
                    await eventually(lambda: all_in_sync(cluster, it), "all replicas are in sync", 120.0)
                    await it.traffic.answered_more(100, within_s=90.0)
                await it.finish()


@pytest.fixture
def elsewhere() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        yield namespace


@asynccontextmanager
async def half_elsewhere(
    experiment: NewExperiment, name: str, elsewhere: NetworkNamespace, tmp_path: Path
) -> AsyncIterator[tuple[Experiment, Process, Process]]:
    """An experiment with a worker in the other network and one here, on a cluster and a Redis that both reach."""
    with (
        KafkaCluster(tmp_path / "cluster", extra_host=elsewhere.host_address) as cluster,
        RedisServer(
            tmp_path / "redis", options=("--bind", "127.0.0.1", elsewhere.host_address, "--protected-mode", "no")
        ) as redis,
    ):
        async with experiment(name, kafka=cluster.bootstrap_servers, redis=redis.url) as it:
            away = it.pipeline.worker(
                within=elsewhere.prefix,
                host=elsewhere.address,
                KAFKA_BOOTSTRAP_SERVERS=cluster.extra_bootstrap_servers,
                REDIS_URL=f"redis://{elsewhere.host_address}:{redis.port}/0",
                REDIS_SOCKET_TIMEOUT="2",
            )
            here = it.pipeline.worker()
            await it.start(workers=[away, here], ingresses=[it.pipeline.ingress()])
            yield it, away, here


async def test_the_network_to_a_worker_is_cut(
    experiment: NewExperiment, elsewhere: NetworkNamespace, tmp_path: Path
) -> None:
    """Neither brokers nor Redis hear of it, and no connection is closed: it does not know that it is gone."""
    name = f"network: worker cut from brokers and Redis for {CUT_S:g} s"
    async with half_elsewhere(experiment, name, elsewhere, tmp_path) as (it, away, here):
        async with it.fault():
            elsewhere.cut()
            begun = time.monotonic()
            await owns(here, 12)
            await it.traffic.answered_more(100)
            await asyncio.sleep(max(0.0, CUT_S - (time.monotonic() - begun)))
            elsewhere.restore()
            await it.traffic.answered_more(100)
            await asyncio.to_thread(it.pipeline.ready)
        assert away.server.running
        await it.finish()


async def test_the_network_to_a_worker_is_slow(
    experiment: NewExperiment, elsewhere: NetworkNamespace, tmp_path: Path
) -> None:
    """P: whoever is at home with the other worker does not notice."""
    name = "network: worker behind 256 kbit/s for 15 s"
    async with half_elsewhere(experiment, name, elsewhere, tmp_path) as (it, away, _here):
        async with it.fault():
            before = away.metric("supportstream_turn_seconds_count")
            elsewhere.slow(256)
            await asyncio.sleep(15.0)
            elsewhere.unslow()
            await it.traffic.answered_more(100)
        assert away.metric("supportstream_turn_seconds_count") > before, "nothing went through the slow network"
        await it.finish()


@asynccontextmanager
async def restarted(broker: KafkaServer, cluster: KafkaCluster, it: Experiment) -> AsyncIterator[None]:
    """At the end of the block the broker runs again and has caught up."""
    try:
        yield
    finally:
        if not broker.server.running:
            await asyncio.to_thread(broker.start)
    await eventually(lambda: all_in_sync(cluster, it), "all replicas are in sync", 90.0)


async def partitions(cluster: KafkaCluster, it: Experiment) -> list[dict[str, object]]:
    """What the brokers say of the partitions of the pipeline's topics; nothing while the one that is asked is away."""
    topics = it.pipeline.topics
    admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    await admin.start()
    try:
        described = await admin.describe_topics([topics.inbound, topics.replies, topics.dlq, topics.deltas])
    except KafkaError:
        return []
    finally:
        await admin.close()
    return [partition for topic in described for partition in topic["partitions"]]


async def led_by(cluster: KafkaCluster, it: Experiment, broker: KafkaServer) -> list[dict[str, object]]:
    return [each for each in await partitions(cluster, it) if each["leader"] == broker.node.node_id]


async def nothing_led_by(cluster: KafkaCluster, it: Experiment, broker: KafkaServer) -> bool:
    found = await partitions(cluster, it)
    return bool(found) and all(each["leader"] not in (broker.node.node_id, -1) for each in found)


async def all_in_sync(cluster: KafkaCluster, it: Experiment) -> bool:
    found = await partitions(cluster, it)
    return bool(found) and all(len(each["isr"]) == 3 for each in found)  # type: ignore[arg-type]
