"""A Redis that may drop conversations: refused in production, warned of elsewhere, and counted while it does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer
from ops.local.redis_call import call
from tests.full_redis import drop_keys
from tests.integration.test_commands import one_line
from tests.polling import wait_until
from tests.processes import Pipeline

PRODUCTION = {"ENVIRONMENT": "production"}
OUTCOMES = ("ok", "warning", "failed")


@pytest.fixture(scope="module")
def evicting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("evicting"), options=("--maxmemory-policy", "allkeys-lru")) as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(kafka: KafkaServer, evicting: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    directory: Path = tmp_path_factory.mktemp("pipeline")
    with Pipeline(kafka.bootstrap_servers, evicting.url, directory, {"GENERATOR": "null"}) as pipeline:
        pipeline.must("topics", "create")
        yield pipeline


@pytest.mark.parametrize("process", ["worker", "ingress"])
def test_in_production_neither_worker_nor_ingress_starts(pipeline: Pipeline, process: str) -> None:
    port = {"API_PORT": "0"} if process == "ingress" else {}
    done = pipeline.run(process, **PRODUCTION, **port)
    one_line(done, 1, "maxmemory-policy allkeys-lru", "CONFIG SET maxmemory-policy noeviction")


def test_check_fails_in_production_and_warns_elsewhere(pipeline: Pipeline) -> None:
    refused = pipeline.run("check", **PRODUCTION)
    assert refused.returncode == 1
    assert outcomes(refused.stdout)["store:"] == ["failed"]
    assert "allkeys-lru" in refused.stdout
    assert outcomes(pipeline.must("check"))["store:"] == ["ok", "warning"]


def test_a_user_without_info_is_warned_that_it_cannot_be_checked(pipeline: Pipeline, evicting: RedisServer) -> None:
    call(evicting.port, "ACL", "SETUSER", "few", "on", ">secret", "~*", "+@all", "-info")
    url = evicting.url.replace("redis://", "redis://few:secret@")
    told = pipeline.must("check", REDIS_URL=url, **PRODUCTION)
    assert outcomes(told)["store:"] == ["ok", "warning"]
    assert "can't be checked" in told


def test_elsewhere_a_worker_warns_at_its_start_and_counts_what_is_evicted(
    pipeline: Pipeline, evicting: RedisServer
) -> None:
    worker = pipeline.worker()
    pipeline.ready()
    log = worker.server.log_path
    assert log.read_text().count("redis_may_evict") == 1
    assert worker.metric("supportstream_redis_evicted_keys") == 0
    drop_keys(evicting.port)
    wait_until(lambda: worker.metric("supportstream_redis_evicted_keys") > 0, "the metric shows evicted keys")
    store = worker.health()["session_store"]
    assert store["evicted_keys"] > 0
    assert store["maxmemory_policy"] == "allkeys-lru"
    wait_until(lambda: "redis_evicts" in log.read_text(), "the log has the rise")
    assert log.read_text().count("redis_evicts") == 1


def outcomes(shown: str) -> dict[str, list[str]]:
    """Per check what `check` printed of it."""
    found: dict[str, list[str]] = {}
    for line in shown.splitlines():
        outcome, name = line.split()[:2]
        assert outcome in OUTCOMES
        found.setdefault(name, []).append(outcome)
    return found
