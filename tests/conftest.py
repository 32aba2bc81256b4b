"""Real servers, started once per run, and names that keep the tests on them apart.

A server that is missing fails the tests that need it, and says what to run.
"""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One Apache Kafka node for the whole run. A test that kills or pauses a broker starts its own."""
    with KafkaServer(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for the whole run. A test that kills or flushes a server starts its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics (and groups) that no other test uses, in place of `support.`."""
    return f"test-{uuid4().hex[:12]}."


@pytest.fixture
def redis_prefix() -> str:
    """A prefix for Redis keys that no other test uses."""
    return f"test-{uuid4().hex[:12]}:"
