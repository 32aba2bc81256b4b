"""How long nothing is answered when a process dies: from its kill -9 to the first reply where it was at work.

Three brokers, two worker processes, messages to sessions of every partition all the time. The worker that dies owns
half of the partitions; the broker that dies leads a third of them. Default settings: most of a worker's failover is
the group's session timeout (`WORKER_SESSION_TIMEOUT_MS`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ops.bench.measure import BenchError
from ops.local.kafka_cluster import KafkaCluster
from ops.local.ports import LOOPBACK, free_port
from ops.local.process import ServerProcess
from ops.local.redis import RedisServer
from schemas.partition import home_partition
from schemas.topics import TopicNames

PARTITIONS = 12
_PATIENCE_S = 60.0
_PAUSE_S = 0.02


@dataclass
class Scene:
    """What runs."""

    cluster: KafkaCluster
    environment: dict[str, str]
    directory: Path
    topics: TopicNames
    workers: list[tuple[ServerProcess, int]] = field(default_factory=list)
    """Each with its HTTP port."""

    def start_worker(self) -> None:
        port = free_port()
        server = ServerProcess(
            "worker",
            [sys.executable, "-m", "ops.cli", "worker"],
            log_path=self.directory / f"worker-{port}.log",
            env={**self.environment, "WORKER_PORT": str(port)},
        )
        server.start()
        self.workers.append((server, port))

    def share(self, port: int) -> set[int]:
        """The partitions of the worker at this port; none while it is not there."""
        try:
            body = httpx.get(f"http://{LOOPBACK}:{port}/health", timeout=5.0).json()
        except httpx.HTTPError:
            return set()
        return {int(name.rpartition(":")[2]) for name in body["partitions"]}

    def wait_shared(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while sum(len(self.share(port)) for _, port in self.workers) != PARTITIONS or not all(
            self.share(port) for _, port in self.workers
        ):
            if time.monotonic() > deadline:
                raise BenchError("the workers do not share the partitions: " + self.workers[0][0].log_tail())
            time.sleep(0.1)


def measure_failover(rounds: int, progress: Callable[[int], None]) -> dict[str, list[float]]:
    """Seconds without a reply, by who died, of each round. `progress` is told how many deaths were seen.

    Raises:
        ServerError, BenchError: something did not start, or did not come back.
    """
    found: dict[str, list[float]] = {"worker": [], "broker": []}
    with _scene() as scene:
        for number in range(rounds):
            progress(2 * number)
            scene.wait_shared()
            victim, port = scene.workers[0]
            found["worker"].append(asyncio.run(_until_first_reply(scene, scene.share(port), victim.kill)))
            del scene.workers[0]
            scene.start_worker()
            scene.wait_shared()
            progress(2 * number + 1)
            broker = scene.cluster.servers[number % 3]
            led = asyncio.run(_led_by(scene, broker.node.node_id))
            found["broker"].append(asyncio.run(_until_first_reply(scene, led, broker.kill)))
            broker.start()
            asyncio.run(_all_in_sync(scene))
    return found


@contextmanager
def _scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="supportstream-bench-")))
        cluster = stack.enter_context(KafkaCluster(directory / "cluster"))
        redis = stack.enter_context(RedisServer(directory / "redis"))
        topics = TopicNames(f"bench-{secrets.token_hex(4)}.")
        environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
            "REDIS_URL": redis.url,
            "TOPIC_PREFIX": topics.prefix,
            "TOPIC_REPLICATION_FACTOR": "3",
            "CONSUMER_GROUP": topics.prefix,
            "GENERATOR": "null",
            "LOG_LEVEL": "error",
        }
        create = [sys.executable, "-m", "ops.cli", "topics", "create"]
        subprocess.run(create, env=environment, check=True, stdout=subprocess.DEVNULL)
        scene = Scene(cluster, environment, directory, topics)
        try:
            for _ in range(2):
                scene.start_worker()
            yield scene
        finally:
            for server, _ in scene.workers:
                if server.running:
                    server.stop()


async def _until_first_reply(scene: Scene, partitions: Collection[int], kill: Callable[[], None]) -> float:
    """Kills under traffic; returns when a message that was published afterwards at one of `partitions` is answered."""
    servers = scene.cluster.bootstrap_servers
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(scene.topics.replies, bootstrap_servers=servers, auto_offset_reset="latest")
    await producer.start()
    await consumer.start()
    await consumer.seek_to_end()
    answered: dict[str, float] = {}
    reading = asyncio.create_task(_read(consumer, answered))
    published: list[str] = []
    publishing = asyncio.create_task(_publish(producer, scene.topics.inbound, partitions, published))
    try:
        await _wait(lambda: len(answered) >= 50, "answers before the blow")
        await asyncio.to_thread(kill)
        died_at, before = time.monotonic(), len(published)
        await _wait(lambda: any(id in answered for id in published[before:]), "an answer after the blow")
        return min(answered[id] for id in published[before:] if id in answered) - died_at
    finally:
        for task in (publishing, reading):
            task.cancel()
        await asyncio.gather(publishing, reading, return_exceptions=True)
        # What they have under way to the broker that died is cancelled, and aiokafka lets that through.
        with suppress(asyncio.CancelledError):
            await producer.stop()
        with suppress(asyncio.CancelledError):
            await consumer.stop()


async def _publish(producer: AIOKafkaProducer, topic: str, partitions: Collection[int], published: list[str]) -> None:
    """One message after the other, each of a new session at one of `partitions`; without waiting for Kafka."""
    n = secrets.randbelow(1_000_000)
    under_way: set[asyncio.Future[object]] = set()
    while True:
        n += 1
        session_id = f"s-{n}"
        if home_partition(session_id, PARTITIONS) not in partitions:
            continue
        id = f"m-{n}-{secrets.token_hex(4)}"
        value = orjson.dumps({"id": id, "text": "Is anybody there?"})
        sent = asyncio.ensure_future(producer.send_and_wait(topic, value, session_id.encode()))
        under_way.add(sent)
        sent.add_done_callback(under_way.discard)
        published.append(id)
        await asyncio.sleep(_PAUSE_S)


async def _read(consumer: AIOKafkaConsumer, answered: dict[str, float]) -> None:
    while True:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                answered.setdefault(orjson.loads(record.value)["inbound_id"], time.monotonic())


async def _wait(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not reached():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {_PATIENCE_S:g} s")
        await asyncio.sleep(0.005)


async def _led_by(scene: Scene, node_id: int) -> set[int]:
    return {each["partition"] for each in await _partitions(scene) if each["leader"] == node_id}


async def _all_in_sync(scene: Scene) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not (found := await _partitions(scene)) or any(len(each["isr"]) < 3 for each in found):
        if time.monotonic() > deadline:
            raise BenchError("the broker that was started again does not catch up")
        await asyncio.sleep(0.5)


async def _partitions(scene: Scene) -> list[dict[str, Any]]:
    """The inbound topic's; none while the broker that is asked is away."""
    admin = AIOKafkaAdminClient(bootstrap_servers=scene.cluster.bootstrap_servers)
    try:
        await admin.start()
        [topic] = await admin.describe_topics([scene.topics.inbound])
    except KafkaError:
        return []
    finally:
        await admin.close()
    return list(topic["partitions"])
