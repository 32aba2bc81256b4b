"""What experiments run on: one broker in the quick half, three (RF 3, min ISR 2) in `make chaos`; a seed; a report."""

import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from ops.local.kafka_cluster import KafkaCluster
from ops.local.redis import RedisServer
from tests.chaos.experiment import Experiment, Ledger
from tests.chaos.faulty import PROGRAM
from tests.integration.test_erasure import SEALED
from tests.processes import Pipeline

CLUSTER = os.environ.get("CHAOS_CLUSTER") == "1"
"""Whether every experiment runs on the cluster, not only those that need it."""
ENCRYPTED = os.environ.get("CHAOS_ENCRYPTED") == "1"
"""Whether every experiment runs with encrypted topics, not only those that are about them."""
SEED = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
LEDGER = Ledger(SEED)

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
        rng = random.Random(f"{SEED} {request.node.nodeid}")
        with pipeline:
            pipeline.must("topics", "create")
            made = Experiment(name, pipeline, rng, LEDGER, customers)
            try:
                yield made
            finally:
                await made.traffic.abandon()

    return make


def replication(kafka: str | None) -> dict[str, str]:
    servers = 3 if CLUSTER and kafka is None else 1 + (kafka or "").count(",")
    return {"TOPIC_REPLICATION_FACTOR": "3"} if servers >= 3 else {}


def pytest_report_header() -> str:
    return f"CHAOS_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not LEDGER.rows:
        return
    terminalreporter.section(f"chaos, CHAOS_SEED={SEED}")
    width = max(len(row.fault) for row in LEDGER.rows)
    terminalreporter.line(f"{'fault':{width}}  messages  held     longest  suppressed  fenced")
    for row in LEDGER.rows:
        terminalreporter.line(
            f"{row.fault:{width}}  {row.messages:8}  {row.invariants:8}{row.longest_wait_s:6.1f} s"
            f"  {row.suppressed:10}  {row.fenced:6}  {row.note}".rstrip()
        )
    if report := os.environ.get("CHAOS_REPORT"):
        Path(report).write_bytes(LEDGER.to_json())
