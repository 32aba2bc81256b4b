"""Rebuilding while everybody talks, and after Redis lost everything."""

import asyncio
from typing import Any

import orjson
import pytest

from ops.local.redis import RedisServer
from ops.local.redis_call import call
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.topic_records import committed_offsets


async def replay(it: Experiment, *arguments: str) -> dict[str, Any]:
    done = await asyncio.to_thread(it.pipeline.must, "replay", "--json", *arguments)
    found: dict[str, Any] = orjson.loads(done)
    return found


@pytest.mark.chaos
async def test_sessions_are_rebuilt_while_200_customers_talk(experiment: NewExperiment) -> None:
    """L, D, O, U: a live turn wins, and no worker's offset moves."""
    async with experiment("replay --execute again and again, 200 customers", customers=200) as it:
        await it.start(
            workers=[it.pipeline.worker(), it.pipeline.worker()], ingresses=[it.pipeline.ingress()], system=False
        )
        ahead = 0
        async with it.fault():
            for _ in range(3):
                before = await committed_offsets(it.pipeline)
                found = await replay(it, "--execute")
                ahead += found["sessions"]["ahead"]
                after = await committed_offsets(it.pipeline)
                assert all(after[number] >= offset for number, offset in before.items())
                assert found["sessions"]["removed"] == 0
                await it.traffic.answered_more(200)
        it.note = f"{ahead} sessions were ahead of a rebuild, and stayed so"
        assert ahead, "no session took a turn meanwhile"
        await it.finish()


async def test_redis_is_flushed_and_rebuilt_while_everybody_talks(
    experiment: NewExperiment, redis_of_its_own: RedisServer
) -> None:
    """R: workers and a replay put back the same sessions at once."""
    async with experiment("Redis: FLUSHALL under load, replay --execute", redis=redis_of_its_own.url) as it:
        await it.start(workers=[it.pipeline.worker(), it.pipeline.worker()], ingresses=[it.pipeline.ingress()])
        await it.traffic.answered_more(100)
        async with it.fault():
            call(redis_of_its_own.port, "FLUSHALL")
            found = await replay(it, "--execute")
            await it.traffic.answered_more(100)
        it.note = f"{found['switched']} sessions rebuilt, {found['sessions']['ahead']} ahead"
        await it.finish(recovers=False)
