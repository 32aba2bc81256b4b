"""Redis forgets, refuses, loses responses, freezes, dies and comes back with less than it had."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ops.local.redis import RedisServer
from ops.local.redis_call import call
from ops.local.redis_sentinel import RedisSentinels
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.chaos.faulty import Faults
from tests.polling import eventually
from tests.processes import Process

BRIEF = {"REDIS_SOCKET_TIMEOUT": "1", "REDIS_SOCKET_CONNECT_TIMEOUT": "1"}
FROZEN_S = 4.0
"""Longer than all attempts at one command: three, of a second each."""


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[RedisSentinels]:
    with RedisSentinels(tmp_path / "sentinels") as servers:
        yield servers


async def start(it: Experiment) -> list[Process]:
    """Two workers and an ingress."""
    workers = [it.pipeline.worker(), it.pipeline.worker()]
    await it.start(workers=workers, ingresses=[it.pipeline.ingress()])
    return workers


@pytest.mark.chaos
async def test_redis_is_flushed(experiment: NewExperiment, redis_of_its_own: RedisServer) -> None:
    async with experiment("Redis: FLUSHALL", redis=redis_of_its_own.url) as it:
        workers = await start(it)
        await it.traffic.answered_more(200)
        async with it.fault():
            call(redis_of_its_own.port, "FLUSHALL")
            await it.traffic.answered_more(300)
        assert_put_back(it, workers)
        await it.finish(recovers=False)


async def test_redis_forgets_its_scripts_again_and_again(
    experiment: NewExperiment, redis_of_its_own: RedisServer
) -> None:
    async with experiment("Redis: SCRIPT FLUSH, 20 times", redis=redis_of_its_own.url) as it:
        await start(it)
        async with it.fault():
            for _ in range(20):
                call(redis_of_its_own.port, "SCRIPT", "FLUSH")
                await it.traffic.answered_more(it.rng.randint(1, 20))
        unknown = refusals(redis_of_its_own, "NOSCRIPT")
        assert unknown >= 20, f"only {unknown} scripts were not known"
        it.note = f"{unknown} scripts unknown"
        await it.finish()


async def test_redis_has_no_memory_left_for_a_while(experiment: NewExperiment, redis_of_its_own: RedisServer) -> None:
    """L: a write that is refused for want of memory is no reason for a dead letter."""
    async with experiment("Redis: out of memory for 3 s", redis=redis_of_its_own.url) as it:
        workers = await start(it)
        async with it.fault():
            used = info(redis_of_its_own, "memory")["used_memory"]
            call(redis_of_its_own.port, "CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", used)
            await eventually(lambda: refused_some(redis_of_its_own, "OOM"), "a write is refused")
            await asyncio.sleep(3.0)
            call(redis_of_its_own.port, "CONFIG", "SET", "maxmemory", "0")
            await it.traffic.answered_more(100)
        assert retried(workers) > 0, "no turn was tried again"
        it.note = f"{refusals(redis_of_its_own, 'OOM')} writes refused"
        await it.finish()
        assert letters(workers) == 0


@pytest.mark.chaos
async def test_responses_of_commits_are_lost(experiment: NewExperiment, redis_of_its_own: RedisServer) -> None:
    async with experiment("Redis: every 7th commit's response lost", redis=redis_of_its_own.url) as it:
        forgetful = Faults(lose_response_every=7).setting()
        workers = [it.pipeline.worker(**forgetful), it.pipeline.worker(**forgetful)]
        async with it.fault():
            await it.start(workers=workers, ingresses=[it.pipeline.ingress()])
            await it.traffic.answered_more(500)
        again = retried(workers)
        assert again >= 20, f"only {again:g} turns were tried again"
        it.note = f"{again:g} responses lost"
        await it.finish()


@pytest.mark.chaos
async def test_all_connections_to_redis_are_cut_again_and_again(
    experiment: NewExperiment, redis_of_its_own: RedisServer
) -> None:
    """Also between a script and its response."""
    async with experiment("Redis: connections cut, 100 times", redis=redis_of_its_own.url) as it:
        await start(it)
        cut = 0
        async with it.fault():
            for _ in range(100):
                cut += call(redis_of_its_own.port, "CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(it.rng.uniform(0.0, 0.05))
            await it.traffic.answered_more(100)
        assert cut >= 100, f"only {cut} connections were cut"
        it.note = f"{cut} connections cut"
        await it.finish()


@pytest.mark.chaos
async def test_redis_freezes_for_longer_than_the_socket_timeout(
    experiment: NewExperiment, redis_of_its_own: RedisServer
) -> None:
    """Commands that were given up on run late, after those that were sent instead."""
    async with experiment(f"Redis: frozen for {FROZEN_S:g} s", redis=redis_of_its_own.url, **BRIEF) as it:
        workers = await start(it)
        async with it.fault():
            redis_of_its_own.server.pause()
            answered = it.traffic.answered
            await asyncio.sleep(FROZEN_S)
            # What was published but not delivered yet may still come; who asks anew gets nothing.
            assert it.traffic.answered - answered <= len(it.traffic.customers), "turns went on"
            assert retried(workers) > 0, "no command was given up on"
            redis_of_its_own.server.resume()
            await it.traffic.answered_more(200)
        await it.finish()


@pytest.mark.chaos
async def test_redis_is_killed_and_comes_back_empty(experiment: NewExperiment, redis_of_its_own: RedisServer) -> None:
    async with experiment("Redis: kill -9, back empty", redis=redis_of_its_own.url) as it:
        workers = await start(it)
        await it.traffic.answered_more(100)
        async with it.fault():
            await kill_and_restart(it, redis_of_its_own)
        assert_put_back(it, workers)
        await it.finish(recovers=False)


@pytest.mark.chaos
async def test_redis_is_killed_and_comes_back_with_an_older_snapshot(
    experiment: NewExperiment, redis_of_its_own: RedisServer
) -> None:
    """Its progress is behind the group's offsets, its sessions are behind the reply topic."""
    async with experiment("Redis: kill -9, back with an older snapshot", redis=redis_of_its_own.url) as it:
        workers = await start(it)
        await it.traffic.answered_more(100)
        call(redis_of_its_own.port, "SAVE")
        await it.traffic.answered_more(200)
        async with it.fault():
            await kill_and_restart(it, redis_of_its_own)
        assert_put_back(it, workers)
        await it.finish(recovers=False)


@pytest.mark.chaos
async def test_redis_is_killed_and_comes_back_with_its_append_only_file(
    experiment: NewExperiment, tmp_path: Path
) -> None:
    options = ("--appendonly", "yes", "--appendfsync", "everysec")
    with RedisServer(tmp_path / "redis", options=options) as redis:
        async with experiment("Redis: kill -9, back with its AOF", redis=redis.url) as it:
            workers = await start(it)
            await it.traffic.answered_more(100)
            async with it.fault():
                await kill_and_restart(it, redis)
            assert_noticed(workers)
            await it.finish()


@pytest.mark.chaos
@pytest.mark.parametrize("worker_dies_too", [False, True], ids=["workers live", "a worker dies, too"])
async def test_a_failover_loses_acknowledged_writes(
    experiment: NewExperiment, sentinels: RedisSentinels, worker_dies_too: bool
) -> None:
    also = ", and a worker" if worker_dies_too else ""
    async with experiment(f"Redis: kill -9 of a master ahead of its replicas{also}", redis=sentinels.url) as it:
        workers = await start(it)
        await it.traffic.answered_more(100)
        async with it.fault():
            old = sentinels.master
            await asyncio.to_thread(sentinels.stop_replication)
            await it.traffic.answered_more(200)
            await asyncio.to_thread(sentinels.kill_master)
            if worker_dies_too:
                victim = workers.pop(it.rng.randrange(2))
                await asyncio.to_thread(victim.server.kill)
                assert it.exit_code(victim.server) == -9
            new = await asyncio.to_thread(sentinels.wait_for_new_master)
            assert new is not old
            await it.traffic.answered_more(200)
        assert it.exit_code(old.server) == -9
        assert_put_back(it, workers)
        await it.finish(recovers=False)


async def kill_and_restart(it: Experiment, redis: RedisServer) -> None:
    """Returns when many messages were answered afterwards."""
    await asyncio.to_thread(redis.server.kill)
    assert it.exit_code(redis.server) == -9
    await asyncio.sleep(it.rng.uniform(0.0, 1.0))
    await asyncio.to_thread(redis.start)
    await it.traffic.answered_more(200)


def assert_noticed(workers: Sequence[Process]) -> None:
    losses = sum(worker.metric("supportstream_store_losses_total") for worker in workers)
    assert losses > 0, "no worker noticed that another Redis answered"


def assert_put_back(it: Experiment, workers: Sequence[Process]) -> None:
    """Something had been lost, and was restored from the reply topic."""
    assert_noticed(workers)
    restored = sum(worker.metric("supportstream_sessions_restored_total") for worker in workers)
    assert restored > 0, "nothing had been lost"
    it.note = f"{restored:g} sessions put back"


def retried(workers: Sequence[Process]) -> float:
    return sum(worker.metric("supportstream_turn_retries_total", error="StoreUnavailable") for worker in workers)


def letters(workers: Sequence[Process]) -> float:
    return sum(worker.metric("supportstream_dead_letters_total") for worker in workers)


def refusals(redis: RedisServer, code: str) -> int:
    """How often the server refused a command with this code."""
    found = re.search(r"count=(\d+)", info(redis, "errorstats").get(f"errorstat_{code}", ""))
    return int(found[1]) if found else 0


async def refused_some(redis: RedisServer, code: str) -> bool:
    return refusals(redis, code) > 0


def info(redis: RedisServer, section: str) -> dict[str, str]:
    lines: str = call(redis.port, "INFO", section)
    return dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
