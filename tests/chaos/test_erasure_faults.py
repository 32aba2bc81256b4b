"""Sessions are erased while workers die and Redis forgets: what was deleted can be read nowhere, all else can."""

import asyncio
from contextlib import suppress
from typing import Any

import httpx
import pytest

from ops.local.redis import RedisServer
from ops.local.redis_call import call
from tests.chaos.conftest import NewExperiment
from tests.chaos.experiment import Experiment
from tests.chaos.faulty import Faults
from tests.customers import ANSWER_WITHIN_S
from tests.integration.test_erasure import SEALED, canary
from tests.processes import Process

ERASED_WITHIN_S = 60.0


async def erase_sessions(ingress: Process, words: list[str], stopped: asyncio.Event) -> None:
    """One after the other begins, says something, and is deleted; their words go to `words`."""
    async with httpx.AsyncClient(base_url=f"{ingress.url}/api/v1", timeout=ANSWER_WITHIN_S) as client:
        while not stopped.is_set():
            word = canary()
            async with asyncio.timeout(ERASED_WITHIN_S):
                begun = await until(client, (201, 202), "POST", "/sessions", json={"user_id": word})
                session_id = begun.json()["session_id"]
                client.headers["authorization"] = f"Bearer {begun.json()['token']}"
                message = {"session_id": session_id, "id": word, "text": word, "wait": 1.0}
                await until(client, (200,), "POST", "/chat", json=message)
                await until(client, (204, 404), "DELETE", f"/sessions/{session_id}")
                del client.headers["authorization"]
            words.append(word)


async def until(
    client: httpx.AsyncClient, wanted: tuple[int, ...], method: str, path: str, **content: Any
) -> httpx.Response:
    """The first response that is wanted; what else comes is asked again."""
    while True:
        with suppress(httpx.TransportError):
            response = await client.request(method, path, **content)
            if response.status_code in wanted:
                return response
        await asyncio.sleep(0.1)


async def assert_unreadable(it: Experiment, words: list[str]) -> None:
    """With all keys that there are."""
    exported = await asyncio.to_thread(it.pipeline.must, "export")
    assert all(customer.canary in exported for customer in it.traffic.customers), "everybody else can be read"
    assert [word for word in words if word in exported] == []
    logs = "".join(path.read_text(errors="replace") for path in it.pipeline.directory.glob("*.log"))
    assert [word for word in words if word in logs] == []


@pytest.mark.chaos
async def test_sessions_are_erased_while_workers_die_and_redis_forgets(
    experiment: NewExperiment, redis_of_its_own: RedisServer
) -> None:
    """R, L: also of the deletions that a worker had begun when it was killed."""
    async with experiment("erasure: kill -9, FLUSHALL", redis=redis_of_its_own.url, **SEALED) as it:
        faults = Faults(kill_at="after_commit_turn", kill_after=it.rng.randint(200, 300))
        victim, other = it.pipeline.worker(**faults.setting()), it.pipeline.worker()
        ingress = it.pipeline.ingress()
        words: list[str] = []
        stopped = asyncio.Event()
        async with it.fault():
            await it.start(workers=[victim, other], ingresses=[ingress])
            erasing = [asyncio.create_task(erase_sessions(ingress, words, stopped)) for _ in range(4)]
            await it.killed_itself(victim)
            it.pipeline.worker()
            await it.traffic.answered_more(200)
            call(redis_of_its_own.port, "FLUSHALL")
            await it.traffic.answered_more(200)
            stopped.set()
            await asyncio.gather(*erasing)
        assert len(words) > 20
        it.note = f"{len(words)} sessions erased"
        await it.finish(recovers=False)
        await assert_unreadable(it, words)
