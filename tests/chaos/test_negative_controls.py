"""A checker that finds nothing proves nothing: with each guard taken away, what would be survived is found.

| guard | what it alone prevents |
|---|---|
| fence: token and version of the compare-and-set | a worker that woke up writes over what its successor did |
| lane order | a session's messages run side by side, and a later one is applied first |
| contiguous commit | a record that is not finished is skipped after a crash |
| the edge's seq check | a reply that is published again is shown again |
"""

import asyncio

import orjson
import pytest

from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.chaos.faulty import Faults, Guard
from tests.chaos.test_worker_faults import owns
from tests.polling import eventually
from tests.topic_records import committed_offsets, producer

GUARDED = pytest.mark.parametrize(
    "guarded", [pytest.param(True, id="guarded", marks=pytest.mark.chaos), pytest.param(False, id="unguarded")]
)


def without(guard: Guard, guarded: bool) -> Guard | None:
    return None if guarded else guard


async def breaches(it: Experiment) -> set[str]:
    """Which invariants verify finds broken, once all is done."""
    found = await it.verify()
    return {name for name, each in found["breaches"].items() if each["count"]}


@pytest.mark.chaos
@GUARDED
async def test_the_fence(experiment: NewExperiment, guarded: bool) -> None:
    async with experiment("control: fence", customers=48) as it:
        setting = Faults(think_seconds=0.3, without=without("fence", guarded)).setting()
        victim, other = it.pipeline.worker(**setting), it.pipeline.worker(**setting)
        await it.start(workers=[victim, other], ingresses=[it.pipeline.ingress()])
        victim.server.pause()
        await owns(other, 12)
        await it.traffic.answered_more(100)
        victim.server.resume()
        await asyncio.to_thread(it.pipeline.ready)
        if guarded:
            await it.traffic.answered_more(100)
            await it.traffic.stop()
        await it.traffic.abandon()
        found = await breaches(it)
        assert bool(found & set("ODUR")) is not guarded, found


@GUARDED
async def test_lane_order(experiment: NewExperiment, guarded: bool) -> None:
    async with experiment("control: lane order", customers=0) as it:
        it.pipeline.worker(**Faults(think_jitter=0.1, without=without("lane_order", guarded)).setting())
        await asyncio.to_thread(it.pipeline.ready)
        await publish_many(it, sessions=20, messages=10)
        found = await breaches(it)
        assert bool(found & set("LO")) is not guarded, found


@GUARDED
async def test_contiguous_commit(experiment: NewExperiment, guarded: bool) -> None:
    async with experiment("control: contiguous commit", customers=0) as it:
        faults = Faults(think_jitter=3.0, without=without("contiguous_commit", guarded))
        victim = it.pipeline.worker(**faults.setting())
        await asyncio.to_thread(it.pipeline.ready)
        await publish_many(it, sessions=400, messages=1)
        await eventually(lambda: something_committed(it), "something is committed")
        assert victim.health()["open_records"] > 0, "nothing is open any more"
        victim.server.kill()
        it.pipeline.worker()
        await asyncio.to_thread(it.pipeline.ready)
        found = await breaches(it)
        assert found == (set() if guarded else {"L", "C"})


@GUARDED
async def test_the_edges_seq_check(experiment: NewExperiment, guarded: bool) -> None:
    async with experiment("control: the edge's seq check") as it:
        victim = it.pipeline.worker(**Faults(kill_at="after_publish", kill_after=150).setting())
        heir = it.pipeline.worker()
        ingress = it.pipeline.ingress(**Faults(without=without("edge_sequence", guarded)).setting())
        await it.start(workers=[victim, heir], ingresses=[ingress])
        await it.killed_itself(victim)
        await owns(heir, 12)
        await it.traffic.answered_more(100)
        await it.traffic.stop()
        assert heir.metric("supportstream_republished_replies_total") > 0, "nothing was published again"
        assert await breaches(it) == set()
        shown_twice = [complaint for complaint in it.traffic.complaints if complaint.startswith("D")]
        assert bool(shown_twice) is not guarded, it.traffic.complaints[:3]


async def publish_many(it: Experiment, *, sessions: int, messages: int) -> None:
    """Everything at once, each session's in order."""
    async with producer(it.pipeline.bootstrap_servers) as kafka:
        under_way = [
            await kafka.send(
                it.pipeline.topics.inbound,
                orjson.dumps({"id": f"m{n}", "text": f"Message {n}"}),
                f"system:{session}".encode(),
            )
            for session, n in ((session, n) for n in range(messages) for session in range(sessions))
        ]
        await asyncio.gather(*under_way)


async def something_committed(it: Experiment) -> bool:
    return bool(await committed_offsets(it.pipeline))
