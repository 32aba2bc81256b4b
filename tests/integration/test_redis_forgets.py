"""Redis loses writes that it acknowledged: the sessions come back from the reply topic before their next turn.

R, L, D, O: afterwards every message has one turn, seq goes on without a gap, and the store is the fold of the topic.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ops.local.kafka import KafkaServer
from ops.local.redis import RedisServer
from ops.local.redis_call import call
from ops.local.redis_sentinel import RedisSentinels
from tests.customers import Customer, message_id
from tests.polling import eventually
from tests.processes import Pipeline, Process
from tests.topic_records import (
    Log,
    assert_answered_once,
    assert_in_partition_order,
    assert_store_is_the_fold,
    read_log,
)

CUSTOMERS = 12
SMALL_CACHE = {"SESSION_L1_CACHE_SIZE": str(CUSTOMERS // 3)}
"""So that some sessions are known to the worker and some only to Redis."""


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[RedisSentinels]:
    with RedisSentinels(tmp_path / "sentinels") as servers:
        yield servers


def pipeline_on(kafka: KafkaServer, redis_url: str, directory: Path, **settings: str) -> Pipeline:
    made = Pipeline(kafka.bootstrap_servers, redis_url, directory, {"GENERATOR": "null", **settings})
    made.must("topics", "create")
    return made


async def everyone_asks(customers: list[Customer], said: set[str]) -> None:
    """One message each, and its answer."""

    async def ask(customer: Customer) -> None:
        id = message_id()
        said.add(id)
        await customer.say("Is anybody there?", id)
        await customer.get(lambda frame: frame["type"] == "reply" and frame["id"] == id, id)

    await asyncio.gather(*(ask(customer) for customer in customers))


async def assert_all_is_well(pipeline: Pipeline, said: set[str]) -> Log:
    log = await read_log(pipeline)
    assert_answered_once(log, said)
    assert_in_partition_order(log)
    await assert_store_is_the_fold(pipeline, log)
    return log


def losses(*workers: Process) -> float:
    return sum(worker.metric("supportstream_store_losses_total") for worker in workers)


async def test_a_flush_while_people_talk(kafka: KafkaServer, own_redis: RedisServer, tmp_path: Path) -> None:
    """The worker knows some sessions from its cache (STALE behind what it wrote), others not at all."""
    with pipeline_on(kafka, own_redis.url, tmp_path, **SMALL_CACHE) as pipeline:
        ingress, worker = pipeline.ingress(), pipeline.worker()
        pipeline.ready()
        customers = [await Customer.join(ingress) for _ in range(CUSTOMERS)]
        said: set[str] = set()
        for _ in range(3):
            await everyone_asks(customers, said)
        async with Redis.from_url(own_redis.url) as client:
            await client.flushall()
        for _ in range(3):
            await everyone_asks(customers, said)
        assert losses(worker) > 0, "the flush was not noticed"
        assert worker.metric("supportstream_sessions_restored_total") >= CUSTOMERS
        log = await assert_all_is_well(pipeline, said)
        assert {session.message_count for session in log.folded().values()} == {6}
        for customer in customers:
            await customer.close()


async def test_a_restart_without_persistence(kafka: KafkaServer, own_redis: RedisServer, tmp_path: Path) -> None:
    """The first sign: another run id."""
    with pipeline_on(kafka, own_redis.url, tmp_path, **SMALL_CACHE) as pipeline:
        ingress, worker = pipeline.ingress(), pipeline.worker()
        pipeline.ready()
        customers = [await Customer.join(ingress) for _ in range(CUSTOMERS)]
        said: set[str] = set()
        await everyone_asks(customers, said)
        await asyncio.to_thread(own_redis.server.kill)
        await asyncio.to_thread(own_redis.start)
        await everyone_asks(customers, said)
        assert worker.metric("supportstream_store_losses_total", sign="server_replaced") > 0
        await assert_all_is_well(pipeline, said)
        for customer in customers:
            await customer.close()


@pytest.mark.parametrize("the_worker_dies_too", [False, True], ids=["the same worker", "another worker"])
async def test_a_failover_that_lost_acknowledged_writes(
    kafka: KafkaServer, sentinels: RedisSentinels, tmp_path: Path, the_worker_dies_too: bool
) -> None:
    """Writes were acknowledged, published and lost; the session's next turn is the same worker's, or another's."""
    with pipeline_on(kafka, sentinels.url, tmp_path, **SMALL_CACHE) as pipeline:
        ingress, worker = pipeline.ingress(), pipeline.worker()
        pipeline.ready()
        customers = [await Customer.join(ingress) for _ in range(CUSTOMERS)]
        said: set[str] = set()
        await everyone_asks(customers, said)
        master = sentinels.master

        async def replicas_have_everything() -> bool:
            acknowledged: int = await asyncio.to_thread(call, master.port, "WAIT", "2", "100")
            return acknowledged == 2

        await eventually(replicas_have_everything, "the replicas have what was written")
        await asyncio.to_thread(sentinels.stop_replication)
        await everyone_asks(customers, said)
        if the_worker_dies_too:
            worker.server.kill()
        await asyncio.to_thread(sentinels.kill_master)
        await asyncio.to_thread(sentinels.wait_for_new_master, 30.0)
        if the_worker_dies_too:
            worker = pipeline.worker()
        await everyone_asks(customers, said)
        assert worker.metric("supportstream_sessions_restored_total") >= CUSTOMERS, "nothing had been lost"
        await assert_all_is_well(pipeline, said)
        for customer in customers:
            await customer.close()
