"""The lock path: records outside their home, or all of them, while holders freeze, lock nodes die and clocks jump."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from ops.local.redis import RedisServer
from ops.local.redis_call import call
from schemas.partition import home_partition
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment, refused_writes
from tests.chaos.faulty import Faults
from tests.chaos.test_worker_faults import owns, refused
from tests.polling import eventually
from tests.processes import Process
from tests.topic_records import producer

LEASE_S = 2.0
LOCKED = {"ORDERING": "lock", "SESSION_LOCK_TIMEOUT_SECONDS": f"{LEASE_S:g}"}


@pytest.fixture
def lock_nodes(tmp_path: Path) -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer(tmp_path / f"lock-{n}")) for n in range(5)]


def nodes_setting(nodes: list[RedisServer]) -> dict[str, str]:
    return {
        "REDLOCK_URLS": ",".join(node.url for node in nodes),
        "SESSION_LOCK_TIMEOUT_SECONDS": f"{LEASE_S:g}",
        "REDIS_SOCKET_TIMEOUT": "1",
        "REDIS_SOCKET_CONNECT_TIMEOUT": "1",
    }


@pytest.mark.chaos
async def test_a_holder_freezes_past_its_lease_and_wakes(experiment: NewExperiment) -> None:
    """O, D: it still believes that it holds its locks; the store knows better."""
    async with experiment("locks: holder SIGSTOPped past its lease, SIGCONT", customers=48, **LOCKED) as it:
        thinking = Faults(think_seconds=0.3).setting()
        victim, other = it.pipeline.worker(**thinking), it.pipeline.worker(**thinking)
        await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
        async with it.fault():
            assert victim.metric("supportstream_locks_held") > 0, "it holds no lock"
            victim.server.pause()
            try:
                await owns(other, 12)
                await it.traffic.answered_more(100)
            finally:
                victim.server.resume()
            await eventually(lambda: refused(victim), "a write of the holder that was frozen is refused")
            await it.traffic.answered_more(100)
        it.note = f"{refused_writes(victim):g} of its writes refused"
        await it.finish()


async def test_lock_nodes_die(experiment: NewExperiment, lock_nodes: list[RedisServer]) -> None:
    """P: two of five: nobody notices. Three: what needs a lock waits, all others go on."""
    async with experiment("locks: 2, then 3 of 5 nodes dead", **nodes_setting(lock_nodes)) as it:
        workers = [it.pipeline.worker(), it.pipeline.worker()]
        await it.start(workers=workers, ingresses=[it.pipeline.ingress()])
        dead = it.rng.sample(lock_nodes, 3)
        async with it.fault():
            for node in dead[:2]:
                node.server.kill()
            before = on_lock(workers)
            await stray(it, 20)
            await eventually(lambda: answered_on_lock(workers, before + 20), "turns under the lock go on", 60.0)
            dead[2].server.kill()
            await stray(it, 20)
            answered = it.traffic.answered
            await it.traffic.answered_more(100)
            assert it.traffic.answered > answered
            for node in dead:
                assert it.exit_code(node.server) == -9
                await asyncio.to_thread(node.start)
            await it.traffic.answered_more(50)
        found = await it.finish()
        assert found["records"]["answered"] >= 40
        assert not found["records"].get("dead_letters")


@pytest.mark.chaos
async def test_the_clock_of_a_lock_node_jumps(experiment: NewExperiment, lock_nodes: list[RedisServer]) -> None:
    """A clock that is set forward ends every lease of its node at once; a minority of nodes may do so at any time."""
    async with experiment(
        "locks: leases of 2 of 5 nodes ended early, 30 times",
        **LOCKED,
        **{"REDLOCK_URLS": nodes_setting(lock_nodes)["REDLOCK_URLS"]},
    ) as it:
        thinking = Faults(think_jitter=0.2).setting()
        workers = [it.pipeline.worker(**thinking), it.pipeline.worker(**thinking)]
        await it.start(workers=workers, ingresses=[it.pipeline.ingress()])
        jumping = it.rng.sample(lock_nodes, 2)
        ended = 0
        async with it.fault():
            for _ in range(30):
                node = it.rng.choice(jumping)
                ended += call(node.port, "DBSIZE")
                call(node.port, "FLUSHALL")
                await it.traffic.answered_more(it.rng.randint(1, 10))
        assert ended > 30, "no lease was ended early"
        it.note = f"{ended} leases ended early"
        await it.finish()


@pytest.mark.chaos
@pytest.mark.parametrize("hours", [-1, 1])
async def test_the_clock_of_a_worker_jumps(experiment: NewExperiment, hours: int) -> None:
    """Times in events come from it; order, ownership and expiry must not."""
    async with experiment(f"clock: one of two workers, {hours:+d} h") as it:
        jumping = Faults(jump_after=100, jump_seconds=hours * 3_600.0).setting()
        victim, other = it.pipeline.worker(**jumping), it.pipeline.worker()
        async with it.fault():
            await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
            await it.traffic.answered_more(400)
            answers = victim.metric("supportstream_turn_seconds_count", outcome="turn.completed")
            assert answers > 100, f"the clock did not jump: {answers:g} answers"
            # Its sessions go to a worker whose clock is right.
            victim.server.kill()
            await owns(other, 12)
            await it.traffic.answered_more(100)
        await it.finish(clocks_agree=False)


async def stray(it: Experiment, count: int) -> None:
    """Messages outside their home, each of a session of its own."""
    async with producer(it.pipeline.bootstrap_servers) as kafka:
        for _ in range(count):
            session_id = f"stray:{it.rng.getrandbits(48):012x}"
            value = orjson.dumps({"id": "stray", "text": "Is anybody there?"})
            elsewhere = (home_partition(session_id, 12) + 1) % 12
            await kafka.send_and_wait(it.pipeline.topics.inbound, value, session_id.encode(), partition=elsewhere)


def on_lock(workers: list[Process]) -> float:
    return sum(worker.metric("supportstream_lock_path_turns_total") for worker in workers)


async def answered_on_lock(workers: list[Process], count: float) -> bool:
    return await asyncio.to_thread(on_lock, workers) >= count
