"""The edge under faults: slow readers, everybody at once, an ingress that dies while it brings back what was missed."""

import asyncio
import resource
import time
from contextlib import AsyncExitStack

import pytest

from schemas.frames import CloseCode
from schemas.session import RECENT_EVENTS
from tests.chaos.conftest import NewExperiment
from tests.customers import Customer
from tests.integration.test_resume import LONG_TEXT, MORE_THAN_BUFFERS_HOLD, not_reading
from tests.processes import Process

CROWD = 5_000


@pytest.mark.chaos
async def test_a_socket_that_nobody_reads_holds_up_nobody(experiment: NewExperiment) -> None:
    """P: it is closed with a code that says reconnect, and what it misses is brought back."""
    async with experiment("edge: socket that nobody reads", customers=12, SOCKET_OUTBOX_FRAMES="8") as it:
        ingress = it.pipeline.ingress()
        await it.start(workers=[it.pipeline.worker()], ingresses=[ingress])
        window = await Customer.join(ingress)
        slow = await not_reading(ingress, window)
        async with it.fault():
            for _ in range(MORE_THAN_BUFFERS_HOLD):
                assert (await window.ask(LONG_TEXT))["type"] == "reply"
            await it.traffic.answered_more(100)
        slow.socket.transport.resume_reading()
        assert await slow.closed() == CloseCode.TRY_AGAIN_LATER
        seen = [frame["seq"] for frame in slow.sequenced]
        missing = list(range(len(seen) + 1, MORE_THAN_BUFFERS_HOLD + 1))
        assert missing, "it was not slow at all"
        again = await slow.rejoin(ingress)
        assert [frame["seq"] for frame in again.sequenced] == missing[-RECENT_EVENTS:]
        for each in (window, again):
            await each.close()
        it.note = f"closed after {len(seen)} of {MORE_THAN_BUFFERS_HOLD} long replies"
        await it.finish()


async def test_an_ingress_is_killed_while_it_brings_back_what_was_missed(experiment: NewExperiment) -> None:
    """D, O: everybody comes back at the other one, again and again, and sees each reply once."""
    async with experiment("edge: ingress killed during resume, twice", customers=40) as it:
        ingresses = [it.pipeline.ingress(), it.pipeline.ingress(), it.pipeline.ingress()]
        await it.start(workers=[it.pipeline.worker()], ingresses=ingresses)
        await it.traffic.answered_more(100)
        async with it.fault():
            for victim in (ingresses[0], ingresses[1]):
                victim.server.kill()
                assert it.exit_code(victim.server) == -9
                before = sum(customer.reconnected for customer in it.traffic.customers)
                # The next one dies as soon as the first have said hello to it.
                while sum(customer.reconnected for customer in it.traffic.customers) == before:
                    it.traffic.raise_what_failed()
                    await asyncio.sleep(0.001)
            await it.traffic.answered_more(200)
        back = sum(customer.reconnected for customer in it.traffic.customers)
        assert back >= 10
        it.note = f"{back} sockets came back"
        await it.finish()


@pytest.mark.chaos
@pytest.mark.alone
@pytest.mark.timeout(400)
async def test_a_crowd_reconnects_at_once(experiment: NewExperiment) -> None:
    """P: those who talk at the other ingress are answered meanwhile."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with experiment(f"edge: {CROWD} sockets reconnect at once", customers=12) as it:
        victim, other, calm = it.pipeline.ingress(), it.pipeline.ingress(), it.pipeline.ingress()
        await it.start(workers=[it.pipeline.worker()], ingresses=[calm])
        async with AsyncExitStack() as stack:
            crowd = await gathered(stack, victim)
            async with it.fault():
                answered = it.traffic.answered
                victim.server.kill()
                began = time.monotonic()
                back = await asyncio.gather(*(come_back(stack, each, other) for each in crowd))
                took = time.monotonic() - began
                assert it.traffic.answered > answered, "nobody else was answered meanwhile"
            assert all(each.welcome["recovered"] for each in back)
            assert other.metric("supportstream_sockets") >= CROWD
            asked = it.rng.sample(back, 20)
            replies = await asyncio.gather(*(each.ask("Still here?") for each in asked))
            assert {reply["type"] for reply in replies} == {"reply"}
        it.note = f"all back after {took:.1f} s"
        await it.finish()


async def gathered(stack: AsyncExitStack, ingress: Process) -> list[Customer]:
    crowd: list[Customer] = []
    for _ in range(0, CROWD, 100):
        crowd += await asyncio.gather(*(Customer.join(ingress) for _ in range(100)))
    for each in crowd:
        stack.push_async_callback(each.close)
    return crowd


async def come_back(stack: AsyncExitStack, lost: Customer, ingress: Process) -> Customer:
    """As a browser does: at once, and again a little later where it is not let in."""
    await lost.closed()
    deadline = time.monotonic() + 120.0
    while True:
        try:
            customer = await lost.rejoin(ingress)
        except (OSError, AssertionError, TimeoutError):
            assert time.monotonic() < deadline, "was not let in"
            await asyncio.sleep(0.2)
        else:
            stack.push_async_callback(customer.close)
            return customer
