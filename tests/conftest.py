"""Real servers, started once per run, and names that keep the tests on them apart.

A server that is missing fails the tests that need it, and says what to run.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer
from tests.processes import Pipeline
from tests.shop import Shop

PACE_WORDS_PER_SECOND = 10
"""Of `paced_shop`: slow enough that something can happen in the middle of an answer."""


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


@pytest.fixture(scope="session")
def new_pipeline(
    kafka: KafkaServer, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Pipeline]:
    """Makes a pipeline on the shared servers, with settings as keyword arguments and topics that exist."""

    def make(**settings: str) -> Pipeline:
        directory: Path = tmp_path_factory.mktemp("pipeline")
        pipeline = Pipeline(kafka.bootstrap_servers, redis_server.url, directory, settings)
        pipeline.must("topics", "create")
        return pipeline

    return make


@pytest.fixture(scope="session")
def shop(new_pipeline: Callable[..., Pipeline]) -> Iterator[Shop]:
    """Two ingress and two worker processes. Leave them as they are: other tests go on with them."""
    # Two models on a small machine: without a limit each would take all cores, and wait for the other.
    with new_pipeline(OMP_NUM_THREADS="1") as pipeline:
        yield Shop(pipeline, workers=2, ingresses=2)


@pytest.fixture(scope="session")
def paced_shop(new_pipeline: Callable[..., Pipeline]) -> Iterator[Shop]:
    """One ingress and one worker that streams its answers slowly."""
    with new_pipeline(ANSWER_PACE_WORDS_PER_SECOND=str(PACE_WORDS_PER_SECOND)) as pipeline:
        yield Shop(pipeline, workers=1, ingresses=1)
