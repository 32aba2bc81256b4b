"""Redis servers that were started with one eviction policy or another: which of them the product accepts."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer
from tests.processes import Pipeline

PRODUCTION = {"ENVIRONMENT": "production"}
DROPPING = ("allkeys-lru", "volatile-lru")
KEEPING = "noeviction"


@dataclass(frozen=True)
class Policies:
    """A pipeline, and one Redis for each policy, with memory for some conversations only."""

    pipeline: Pipeline
    servers: dict[str, RedisServer]

    def of(self, policy: str) -> dict[str, str]:
        """The setting that leads to its Redis."""
        return {"REDIS_URL": self.servers[policy].url}


@pytest.fixture(scope="module")
def policies(kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policies]:
    directory: Path = tmp_path_factory.mktemp("policies")
    with ExitStack() as running:
        servers = {
            policy: running.enter_context(
                RedisServer(directory / policy, options=("--maxmemory", "64mb", "--maxmemory-policy", policy))
            )
            for policy in (*DROPPING, KEEPING)
        }
        pipeline = Pipeline(kafka.bootstrap_servers, servers[KEEPING].url, directory, {"GENERATOR": "null"})
        running.enter_context(pipeline)
        pipeline.must("topics", "create")
        yield Policies(pipeline, servers)


def test_check_names_a_policy_that_drops_conversations_and_is_quiet_about_one_that_keeps_them(
    policies: Policies,
) -> None:
    with ThreadPoolExecutor(2) as at_once:
        shown = dict(
            zip(
                policies.servers,
                at_once.map(lambda policy: policies.pipeline.must("check", **policies.of(policy)), policies.servers),
                strict=True,
            )
        )
    for policy in DROPPING:
        assert any(line.startswith("warning") and policy in line for line in shown[policy].splitlines()), shown[policy]
    assert not [line for line in shown[KEEPING].splitlines() if not line.startswith("ok")], shown[KEEPING]


def test_in_production_no_process_starts_on_a_redis_that_drops_conversations(policies: Policies) -> None:
    started = (("worker", "volatile-lru"), ("ingress", "allkeys-lru"))
    with ThreadPoolExecutor(2) as at_once:
        ended = at_once.map(lambda each: policies.pipeline.run(each[0], **policies.of(each[1]), **PRODUCTION), started)
    for done, (_, policy) in zip(ended, started, strict=True):
        assert done.returncode == 1, done.stderr
        assert policy in done.stderr
        assert KEEPING in done.stderr, "it says what to set instead"


def test_in_production_a_worker_starts_on_a_redis_that_keeps_conversations(policies: Policies) -> None:
    worker = policies.pipeline.worker(**PRODUCTION)
    policies.pipeline.ready()
    assert "evict" not in worker.server.log_path.read_text(encoding="utf-8")
