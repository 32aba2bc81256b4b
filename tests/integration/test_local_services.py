"""The servers that everything else is tested on: they serve, they die when told, and they come back."""

import asyncio
import sys
import time
from pathlib import Path

import pytest
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from ops.local.embedded import EmbeddedBroker
from ops.local.kafka import KafkaServer
from ops.local.kafka_cluster import KafkaCluster
from ops.local.process import ServerError, ServerProcess
from ops.local.redis import RedisServer

DEADLINE_S = 60.0


async def create_topic(servers: str, topic: str, *, replicas: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=replicas)])
    finally:
        await admin.close()
    assert [error[1] for error in answer.topic_errors] == [0]


async def produce(servers: str, topic: str, value: bytes, *, idempotent: bool = True) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=idempotent)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, key=b"session-1")
    finally:
        await producer.stop()


async def consume_first(servers: str, topic: str) -> bytes:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        record = await asyncio.wait_for(consumer.getone(), DEADLINE_S)
    finally:
        await consumer.stop()
    assert record.key == b"session-1"
    return bytes(record.value or b"")


async def test_kafka_returns_what_was_produced(kafka: KafkaServer, topic_prefix: str) -> None:
    topic = topic_prefix + "inbound"
    await create_topic(kafka.bootstrap_servers, topic)
    await produce(kafka.bootstrap_servers, topic, b"hello")
    assert await consume_first(kafka.bootstrap_servers, topic) == b"hello"


async def test_kafka_never_creates_a_topic_by_itself(kafka: KafkaServer, topic_prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        [answer] = await admin.describe_topics([topic_prefix + "missing"])
    finally:
        await admin.close()
    assert answer["error_code"] == UnknownTopicOrPartitionError.errno


async def test_killed_kafka_comes_back_with_its_records(tmp_path: Path, topic_prefix: str) -> None:
    topic = topic_prefix + "inbound"
    with KafkaServer(tmp_path / "kafka") as server:
        await create_topic(server.bootstrap_servers, topic)
        await produce(server.bootstrap_servers, topic, b"before the crash")
        address, first_pid = server.bootstrap_servers, server.server.pid

        server.kill()
        assert not server.server.running
        await asyncio.to_thread(server.restart)

        assert server.server.pid != first_pid
        assert server.bootstrap_servers == address
        assert await consume_first(server.bootstrap_servers, topic) == b"before the crash"


async def test_three_brokers_serve_while_one_is_dead(tmp_path: Path, topic_prefix: str) -> None:
    topic = topic_prefix + "inbound"
    with KafkaCluster(tmp_path / "cluster", brokers=3) as cluster:
        await create_topic(cluster.bootstrap_servers, topic, replicas=3)
        await produce(cluster.bootstrap_servers, topic, b"replicated")
        cluster.servers[0].kill()
        assert await consume_first(cluster.bootstrap_servers, topic) == b"replicated"


async def test_redis_answers(redis_server: RedisServer, redis_prefix: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        await client.set(redis_prefix + "greeting", b"hello")
        assert await client.get(redis_prefix + "greeting") == b"hello"


async def test_embedded_broker_returns_what_was_produced(tmp_path: Path, topic_prefix: str) -> None:
    topic = topic_prefix + "inbound"
    with EmbeddedBroker(tmp_path) as broker:
        await create_topic(broker.bootstrap_servers, topic)
        await produce(broker.bootstrap_servers, topic, b"hello", idempotent=False)
        assert await consume_first(broker.bootstrap_servers, topic) == b"hello"


def test_missing_jars_say_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_JARS", str(tmp_path))
    with pytest.raises(ServerError, match="make services"):
        KafkaServer(tmp_path / "kafka").start()


def test_missing_java_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_java = tmp_path / "bin" / "java"
    old_java.parent.mkdir()
    old_java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    old_java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/bin-without-java")
    monkeypatch.setattr("ops.local.java._HOMEBREW", ())
    with pytest.raises(ServerError, match=r"Java 17 or newer .*java is 11\.0\.2.*make services"):
        KafkaServer(tmp_path / "kafka").start()


def python(code: str, log_path: Path) -> ServerProcess:
    return ServerProcess("the program", [sys.executable, "-uc", code], log_path=log_path)


def log_contains(log_path: Path, text: str) -> bool:
    return text in log_path.read_text()


def test_a_server_that_dies_shows_its_last_words(tmp_path: Path) -> None:
    server = python("raise SystemExit('no disk space')", tmp_path / "log")
    server.start()
    with pytest.raises(ServerError, match=r"exit code 1 before it was ready[\s\S]*no disk space"):
        server.wait_ready(lambda: False, DEADLINE_S)


def test_a_server_that_is_late_is_ended(tmp_path: Path) -> None:
    server = python("import time; print('still loading'); time.sleep(600)", tmp_path / "log")
    server.start()
    server.wait_ready(lambda: log_contains(server.log_path, "loading"), DEADLINE_S)
    with pytest.raises(ServerError, match=r"not ready after 0\.1 s[\s\S]*still loading"):
        server.wait_ready(lambda: False, 0.1)
    assert not server.running


def test_a_server_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    server = python(code, tmp_path / "log")
    server.start()
    server.wait_ready(lambda: log_contains(server.log_path, "deaf"), DEADLINE_S)
    assert server.stop(grace_s=0.1) == -9


def test_a_paused_server_goes_on_when_resumed(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        server.server.pause()
        assert not answers(server)
        server.server.resume()
        server.server.wait_ready(lambda: answers(server), DEADLINE_S)


def answers(server: RedisServer) -> bool:
    client = redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None)
    try:
        return bool(client.ping())
    except redis.TimeoutError:
        return False
    finally:
        client.close()


def test_a_paused_server_can_be_stopped(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    server.server.pause()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 5
    assert not server.server.running
