"""Two faults at a time, whichever, for ten minutes: `make soak`."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from ops.local.kafka_cluster import KafkaCluster
from ops.local.redis import RedisServer
from ops.local.redis_call import call
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.chaos.faulty import Faults
from tests.processes import Process

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
THINKING = Faults(think_jitter=0.1).setting()

pytestmark = [pytest.mark.soak, pytest.mark.timeout(60 * (MINUTES + 10))]


@dataclass
class Scene:
    """What runs, and what is done to it."""

    it: Experiment
    cluster: KafkaCluster
    redis: RedisServer
    workers: list[Process]
    ingresses: list[Process]
    done: list[str] = field(default_factory=list)
    brokers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Of three brokers two must live."""
    store: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def rng(self) -> random.Random:
        return self.it.rng


async def kill_worker(scene: Scene) -> None:
    victim = scene.rng.choice(scene.workers)
    scene.workers.remove(victim)
    victim.server.kill()
    scene.workers.append(scene.it.pipeline.worker(**THINKING))
    await asyncio.sleep(scene.rng.uniform(3.0, 6.0))


async def stop_worker(scene: Scene) -> None:
    victim = scene.rng.choice(scene.workers)
    scene.workers.remove(victim)
    scene.workers.append(scene.it.pipeline.worker(**THINKING))
    await asyncio.to_thread(victim.server.stop, 30.0)


async def freeze_worker(scene: Scene) -> None:
    victim = scene.rng.choice(scene.workers)
    scene.workers.remove(victim)
    victim.server.pause()
    try:
        await asyncio.sleep(scene.rng.uniform(1.0, 8.0))
    finally:
        victim.server.resume()
    scene.workers.append(victim)


async def kill_ingress(scene: Scene) -> None:
    # The other trouble must not kill it as well.
    victim = scene.rng.choice(scene.ingresses)
    scene.ingresses.remove(victim)
    victim.server.kill()
    await asyncio.sleep(scene.rng.uniform(0.5, 2.0))
    await asyncio.to_thread(victim.server.start)
    scene.ingresses.append(victim)


async def kill_broker(scene: Scene) -> None:
    async with scene.brokers:
        broker = scene.rng.choice(scene.cluster.servers)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(scene.rng.uniform(1.0, 5.0))
        await asyncio.to_thread(broker.start)
        # Until it has caught up another one must not go.
        await asyncio.sleep(10.0)


async def freeze_broker(scene: Scene) -> None:
    async with scene.brokers:
        broker = scene.rng.choice(scene.cluster.servers)
        broker.server.pause()
        try:
            await asyncio.sleep(scene.rng.uniform(1.0, 5.0))
        finally:
            broker.server.resume()
        await asyncio.sleep(5.0)


async def flush_redis(scene: Scene) -> None:
    async with scene.store:
        call(scene.redis.port, "FLUSHALL")
        await asyncio.sleep(2.0)


async def restart_redis(scene: Scene) -> None:
    async with scene.store:
        await asyncio.to_thread(scene.redis.server.kill)
        await asyncio.sleep(scene.rng.uniform(0.0, 2.0))
        await asyncio.to_thread(scene.redis.start)
        await asyncio.sleep(2.0)


async def freeze_redis(scene: Scene) -> None:
    async with scene.store:
        scene.redis.server.pause()
        try:
            await asyncio.sleep(scene.rng.uniform(0.5, 4.0))
        finally:
            scene.redis.server.resume()


async def cut_redis_connections(scene: Scene) -> None:
    async with scene.store:
        for _ in range(20):
            call(scene.redis.port, "CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(scene.rng.uniform(0.0, 0.1))


FAULTS: list[Callable[[Scene], Awaitable[None]]] = [
    kill_worker,
    stop_worker,
    freeze_worker,
    kill_ingress,
    kill_broker,
    freeze_broker,
    flush_redis,
    restart_redis,
    freeze_redis,
    cut_redis_connections,
]


async def test_two_random_faults_at_a_time(
    experiment: NewExperiment, cluster: KafkaCluster, redis_of_its_own: RedisServer
) -> None:
    name = f"soak: two random faults at a time, {MINUTES:g} min"
    brief = {"REDIS_SOCKET_TIMEOUT": "1", "REDIS_SOCKET_CONNECT_TIMEOUT": "1"}
    async with experiment(name, kafka=cluster.bootstrap_servers, redis=redis_of_its_own.url, **brief) as it:
        workers = [it.pipeline.worker(**THINKING) for _ in range(3)]
        ingresses = [it.pipeline.ingress() for _ in range(3)]
        await it.start(workers=workers, ingresses=ingresses)
        scene = Scene(it, cluster, redis_of_its_own, workers, list(ingresses))
        end = time.monotonic() + 60 * MINUTES
        async with it.fault():
            await asyncio.gather(trouble(scene, end), trouble(scene, end))
            await it.traffic.answered_more(100, within_s=120.0)
        it.note = f"{len(scene.done)} faults of {len(set(scene.done))} kinds"
        print(" ".join(scene.done))
        assert len(scene.done) >= 6 * MINUTES
        await it.finish(recovers=False)


async def trouble(scene: Scene, end: float) -> None:
    """One fault after the other."""
    while time.monotonic() < end:
        fault = scene.rng.choice(FAULTS)
        await fault(scene)
        scene.done.append(fault.__name__)
        scene.it.traffic.raise_what_failed()
        await asyncio.sleep(scene.rng.uniform(0.0, 2.0))
