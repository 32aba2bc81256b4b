"""Workers die, freeze, stall and are told to stop, anywhere in a turn."""

import asyncio
import time
from typing import get_args

import pytest

from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import refused_writes
from tests.chaos.faulty import Failpoint, Faults
from tests.polling import eventually, wait_until
from tests.processes import Process, partitions_of

WHERE: dict[Failpoint, str] = {
    "before_commit_turn": "before the compare-and-set",
    "after_commit_turn": "between compare-and-set and publish",
    "after_publish": "between publish and commit",
    "before_group_commit": "between the store's progress and the group's commit",
}
SESSION_TIMEOUT_S = 3.0
"""Of the group, in these pipelines."""
THINKING = Faults(think_seconds=0.3)
"""Answers take so long that a fault finds most workers in mid-turn."""
GUESTS = 4
"""So many come and go at once: a worker takes longer to start than another takes to leave."""


POINTS = [
    pytest.param(point, marks=() if point == "after_commit_turn" else pytest.mark.chaos)
    for point in get_args(Failpoint)
]


@pytest.mark.parametrize("point", POINTS)
async def test_a_worker_is_killed_in_a_turn(experiment: NewExperiment, point: Failpoint) -> None:
    async with experiment(f"worker: kill -9 {WHERE[point]}") as it:
        after = it.rng.randint(2, 3) if point == "before_group_commit" else it.rng.randint(100, 200)
        faults = Faults(kill_at=point, kill_after=after)
        victim, other = it.pipeline.worker(**faults.setting()), it.pipeline.worker()
        async with it.fault():
            await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
            await it.killed_itself(victim)
            await it.traffic.answered_more(200)
        await it.finish()


async def test_a_worker_freezes_past_the_session_timeout_and_wakes(experiment: NewExperiment) -> None:
    """O, D: what it had under way is written by others meanwhile, and what it writes then is refused."""
    async with experiment("worker: SIGSTOP past the session timeout, SIGCONT", customers=48) as it:
        victim, other = it.pipeline.worker(**THINKING.setting()), it.pipeline.worker(**THINKING.setting())
        await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
        async with it.fault():
            victim.server.pause()
            try:
                await owns(other, 12)
                await it.traffic.answered_more(100)
            finally:
                victim.server.resume()
            await eventually(lambda: refused(victim), "a write of the worker that was frozen is refused")
            await it.traffic.answered_more(100)
            await asyncio.to_thread(it.pipeline.ready)
        it.note = f"{refused_writes(victim):g} of its writes refused"
        await it.finish()


@pytest.mark.chaos
async def test_the_event_loop_stands_still_past_the_session_timeout(experiment: NewExperiment) -> None:
    """No heartbeat is sent and nothing polled; the group goes on without it, and takes it back."""
    async with experiment("worker: event loop blocked for 5 s") as it:
        faults = Faults(think_seconds=0.1, block_after=60, block_seconds=SESSION_TIMEOUT_S + 2.0)
        victim, other = it.pipeline.worker(**faults.setting()), it.pipeline.worker(**THINKING.setting())
        async with it.fault():
            await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
            await owns(other, 12)
            await it.traffic.answered_more(50)
            await asyncio.to_thread(it.pipeline.ready)
        assert await asyncio.to_thread(partitions_of, victim), "it did not come back"
        await it.finish()


@pytest.mark.chaos
async def test_partitions_are_taken_away_and_given_back_in_mid_turn(experiment: NewExperiment) -> None:
    """O: a session never runs twice at once, though its partition comes back to the worker that still works on it."""
    async with experiment("worker: revoked and given back, 3 times") as it:
        stays = it.pipeline.worker(**THINKING.setting())
        await it.start(workers=[stays], ingresses=[it.pipeline.ingress()])
        async with it.fault():
            for _ in range(3):
                guest = it.pipeline.worker(**THINKING.setting())
                await asyncio.to_thread(it.pipeline.ready)
                assert 0 < len(await asyncio.to_thread(partitions_of, stays)) < 12
                await it.traffic.answered_more(30)
                assert await asyncio.to_thread(guest.server.stop, 30.0) == 0
                await owns(stays, 12)
                await it.traffic.answered_more(30)
        await it.finish()


@pytest.mark.chaos
async def test_a_worker_is_told_to_stop_while_answers_take_longer_than_it_may(experiment: NewExperiment) -> None:
    """L: what it can't finish in time is left to the next owner."""
    async with experiment("worker: SIGTERM in mid-generation, past the grace time") as it:
        slow = Faults(think_seconds=4.0)
        victim = it.pipeline.worker(WORKER_DRAIN_SECONDS="1", **slow.setting())
        heir = it.pipeline.worker(**THINKING.setting())
        await it.start(workers=[victim, heir], ingresses=[it.pipeline.ingress()])
        await in_mid_turn(victim)
        async with it.fault():
            began = time.monotonic()
            assert await asyncio.to_thread(victim.server.stop, 30.0) == 0
            took = time.monotonic() - began
            assert took < 4.0, f"it waited for its answers: {took:.1f} s"
            assert "turns_abandoned" in victim.server.log_path.read_text(encoding="utf-8")
            await it.traffic.answered_more(100)
        it.note = f"gone after {took:.1f} s"
        await it.finish()


@pytest.mark.chaos
async def test_a_worker_is_told_to_stop_twice(experiment: NewExperiment) -> None:
    """L: the second signal ends it at once."""
    async with experiment("worker: SIGTERM twice in mid-generation") as it:
        slow = Faults(think_seconds=8.0)
        victim, heir = it.pipeline.worker(**slow.setting()), it.pipeline.worker(**THINKING.setting())
        await it.start(workers=[victim, heir], ingresses=[it.pipeline.ingress()])
        await in_mid_turn(victim)
        async with it.fault():
            victim.server.ask_to_stop()
            await eventually(lambda: draining(victim), "it drains")
            began = time.monotonic()
            victim.server.ask_to_stop()
            await asyncio.to_thread(wait_until, lambda: not victim.server.running, "it ends")
            assert time.monotonic() - began < 2.0
            await it.traffic.answered_more(100)
        await it.finish()


@pytest.mark.chaos
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_worker_with_an_instance_id_is_restarted(experiment: NewExperiment, how: str) -> None:
    """Static membership: within the session timeout nobody else's partitions move."""
    settings = {"WORKER_SESSION_TIMEOUT_MS": "20000", "LOG_LEVEL": "info"}
    async with experiment(f"worker: {how} and started again, static membership", **settings) as it:
        victim, other = it.pipeline.worker(WORKER_INSTANCE_ID="w1"), it.pipeline.worker(WORKER_INSTANCE_ID="w2")
        await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
        before = await asyncio.to_thread(partitions_of, other)
        assigned = times_assigned(other)
        async with it.fault():
            if how == "killed":
                victim.server.kill()
            else:
                assert await asyncio.to_thread(victim.server.stop, 30.0) == 0
            await asyncio.to_thread(victim.server.start)
            await asyncio.to_thread(it.pipeline.ready)
            await it.traffic.answered_more(100)
        assert await asyncio.to_thread(partitions_of, other) == before
        assert times_assigned(other) == assigned, "the other worker's partitions were taken away"
        await it.finish()


def times_assigned(worker: Process) -> int:
    return worker.server.log_path.read_text(encoding="utf-8").count("partitions_ready")


@pytest.mark.chaos
async def test_members_come_and_go(experiment: NewExperiment) -> None:
    """Every 1 to 3 s a member that owns partitions leaves, killed or told to, and another starts in its place."""
    async with experiment("workers: come and go every 1 to 3 s for a minute") as it:
        thinking = Faults(think_seconds=0.05)
        await it.start(workers=[it.pipeline.worker(**thinking.setting())], ingresses=[it.pipeline.ingress()])
        guests: list[Process] = []
        killed = stopped = 0
        async with it.fault():
            end = time.monotonic() + 60.0
            while time.monotonic() < end:
                while len(guests) < GUESTS:
                    guests.append(it.pipeline.worker(**thinking.setting()))
                if at_work := await asyncio.to_thread(those_at_work, guests):
                    guest = it.rng.choice(at_work)
                    guests.remove(guest)
                    if killed <= stopped:
                        guest.server.kill()
                        killed += 1
                    else:
                        guest.server.ask_to_stop()
                        stopped += 1
                it.traffic.raise_what_failed()
                await asyncio.sleep(it.rng.uniform(1.0, 3.0))
            await it.traffic.answered_more(50)
        it.note = f"{killed + stopped} left while they owned partitions, {killed} by kill -9"
        assert killed + stopped >= 8, it.note
        for guest in guests:
            await asyncio.to_thread(guest.server.stop, 30.0)
        await it.finish()


def those_at_work(workers: list[Process]) -> list[Process]:
    """They own partitions. One that just starts doesn't answer yet."""
    return [worker for worker in workers if worker.is_ready() and partitions_of(worker)]


async def owns(worker: Process, count: int) -> None:
    """Returns when the worker owns so many partitions."""
    await asyncio.to_thread(
        wait_until, lambda: len(partitions_of(worker)) == count, f"{worker.server.name} owns {count} partitions"
    )


async def in_mid_turn(worker: Process) -> None:
    await asyncio.to_thread(wait_until, lambda: worker.health()["open_records"] > 0, "records are open")


async def refused(worker: Process) -> bool:
    return await asyncio.to_thread(refused_writes, worker) > 0


async def draining(worker: Process) -> bool:
    """It takes no more requests, and is still there."""
    return worker.server.running and not await asyncio.to_thread(worker.is_ready)
