"""Real servers, started once per run, and names that keep the tests on them apart.

A run may consist of several processes (`pytest -n`): they share the servers, and the first one prints the report.
A server that is missing fails the tests that need it, and says what to run.
"""

import os
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from xdist.remote import Producer

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer
from tests.chaos.ledger import Collected, seed
from tests.one_at_a_time import machine
from tests.processes import Pipeline
from tests.shared_servers import KeeperProcess, shared_kafka, shared_redis
from tests.shares import GroupScheduling, needs_the_machine, share_out
from tests.shop import Shop

KEEPER = pytest.StashKey[KeeperProcess]()
CHAOS = Collected()

PACE_WORDS_PER_SECOND = 10
"""Of `paced_shop`: slow enough that something can happen in the middle of an answer."""


def is_first_process(config: pytest.Config) -> bool:
    """Whether this is the process that was started as pytest, not one that runs a share of its tests (`-n`)."""
    return not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    if is_first_process(config):
        os.environ.setdefault("CHAOS_SEED", str(secrets.randbits(32)))
        # Several models on a small machine: without a limit each would take all cores, and wait for the others.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        config.stash[KEEPER] = KeeperProcess()


def pytest_unconfigure(config: pytest.Config) -> None:
    if KEEPER in config.stash:
        config.stash[KEEPER].end()


def pytest_report_header() -> str:
    return f"CHAOS_SEED={seed()}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not is_first_process(config):
        share_out(items)


# The groups of pytest-xdist itself (`--dist loadgroup`) have no effect with the pytest that is installed.
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    return GroupScheduling(config, log)


# First, so that the time limit of a test does not count while it waits for others.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with machine(alone=needs_the_machine(item)):
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    CHAOS.take(report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CHAOS.rows:
        terminalreporter.section(f"chaos, CHAOS_SEED={seed()}")
        for line in CHAOS.table():
            terminalreporter.line(line)
        if report := os.environ.get("CHAOS_REPORT"):
            Path(report).write_bytes(CHAOS.to_json(seed()))


@pytest.fixture(scope="session")
def kafka(shared_directory: Path) -> KafkaServer:
    """One Apache Kafka node for the whole run. A test that kills or pauses a broker starts its own."""
    return shared_kafka(shared_directory / "kafka")


@pytest.fixture(scope="session")
def redis_server(shared_directory: Path) -> RedisServer:
    """One redis-server for the whole run. A test that kills or flushes a server starts its own."""
    return shared_redis(shared_directory / "redis")


@pytest.fixture(scope="session")
def shared_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's directory for files that are kept like those of `tmp_path`; one for all processes of the run."""
    own = tmp_path_factory.getbasetemp()
    return own if is_first_process(request.config) else own.parent


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
    with new_pipeline() as pipeline:
        yield Shop(pipeline, workers=2, ingresses=2)


@pytest.fixture(scope="session")
def paced_shop(new_pipeline: Callable[..., Pipeline]) -> Iterator[Shop]:
    """One ingress and one worker that streams its answers slowly."""
    with new_pipeline(ANSWER_PACE_WORDS_PER_SECOND=str(PACE_WORDS_PER_SECOND)) as pipeline:
        yield Shop(pipeline, workers=1, ingresses=1)
