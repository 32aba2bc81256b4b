"""What experiments run on: one broker in the quick half, three (RF 3, min ISR 2) in `make chaos`."""

import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from ops.local.kafka_cluster import KafkaCluster
from ops.local.redis import RedisServer
from tests.chaos.experiment import Experiment
from tests.chaos.faulty import PROGRAM
from tests.chaos.ledger import ReportedLedger, seed
from tests.integration.test_erasure import SEALED
from tests.processes import Pipeline

CLUSTER = os.environ.get("CHAOS_CLUSTER") == "1"
"""Whether every experiment runs on the cluster, not only those that need it."""
ENCRYPTED = os.environ.get("CHAOS_ENCRYPTED") == "1"
"""Whether every experiment runs with encrypted topics, not only those that are about them."""

NewExperiment = Callable[..., AbstractAsyncContextManager[Experiment]]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Three nodes for the whole run. Who ends one starts it again."""
    with KafkaCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def redis_of_its_own(tmp_path: Path) -> Iterator[RedisServer]:
    """For faults of Redis itself."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def experiment(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> NewExperiment:
    """Makes experiments, each on topics and keys of its own.

    `kafka` is a bootstrap address, `redis` a URL; without them the shared servers. Other arguments are settings.
    """

    @asynccontextmanager
    async def make(
        name: str, *, customers: int = 24, kafka: str | None = None, redis: str | None = None, **settings: str
    ) -> AsyncIterator[Experiment]:
        shared = "cluster" if CLUSTER else "kafka"
        pipeline = Pipeline(
            kafka or request.getfixturevalue(shared).bootstrap_servers,
            redis or redis_server.url,
            tmp_path,
            {"GENERATOR": "null", **replication(kafka), **(SEALED if ENCRYPTED else {}), **settings},
            program=PROGRAM,
        )
        # Not the node id: it depends on how the run is spread over processes.
        rng = random.Random(f"{seed()} {request.path.name} {request.node.name}")
        with pipeline:
            pipeline.must("topics", "create")
            made = Experiment(name, pipeline, rng, ReportedLedger(request.node), customers)
            try:
                yield made
            finally:
                await made.traffic.abandon()

    return make


def replication(kafka: str | None) -> dict[str, str]:
    servers = 3 if CLUSTER and kafka is None else 1 + (kafka or "").count(",")
    return {"TOPIC_REPLICATION_FACTOR": "3"} if servers >= 3 else {}
