"""Clients come and go in the middle of answers: everybody sees every reply, once and in order."""

import asyncio
import socket as sockets
from collections.abc import Callable, Iterator

import pytest
import redis.asyncio

from schemas.frames import CloseCode
from schemas.inbound import MAX_TEXT_CHARACTERS
from schemas.session import RECENT_EVENTS
from tests.customers import Customer, Frame, customer, message_id
from tests.polling import eventually
from tests.processes import Pipeline, Process, paused
from tests.shop import Shop
from tests.topic_records import session_store

QUESTION = "How do I get my money back?"
OUTBOX_FRAMES = 8
LONG_TEXT = "🙂" * MAX_TEXT_CHARACTERS
"""32 kB in UTF-8."""
MORE_THAN_BUFFERS_HOLD = 140
"""Long replies: Linux buffers up to 4 MB for a socket."""


@pytest.fixture(scope="module")
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline(GENERATOR="null", SOCKET_OUTBOX_FRAMES=str(OUTBOX_FRAMES)) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def worker(pipeline: Pipeline) -> Process:
    return pipeline.worker()


@pytest.fixture(scope="module")
def ingress(pipeline: Pipeline, worker: Process) -> Process:
    ingress = pipeline.ingress()
    pipeline.ready()
    return ingress


def is_reply_to(id: str) -> Callable[[Frame], bool]:
    return lambda frame: frame["type"] == "reply" and frame["id"] == id


def is_delta_of(id: str) -> Callable[[Frame], bool]:
    return lambda frame: frame["type"] == "delta" and frame["id"] == id


async def test_deltas_come_before_the_reply_and_make_its_text(paced_shop: Shop) -> None:
    async with customer(paced_shop.ingresses[0]) as alice:
        reply = await alice.ask(QUESTION)
        deltas = alice.of_type("delta")
        assert len(deltas) > 3
        assert [delta["n"] for delta in deltas] == list(range(len(deltas)))
        assert "".join(delta["text"] for delta in deltas) == reply["text"]
        assert alice.frames.index(deltas[-1]) < alice.frames.index(reply), "no delta follows the reply"
        assert reply["citations"][0]["doc_id"] == "refunds.md"


async def test_who_reconnects_in_the_middle_of_an_answer_gets_it_once(paced_shop: Shop) -> None:
    ingress = paced_shop.ingresses[0]
    alice = await Customer.join(ingress)
    id = await alice.say(QUESTION)
    await alice.get(is_delta_of(id), "the first words")
    await alice.close()
    assert not alice.of_type("reply")
    again = await alice.rejoin(ingress)
    assert again.welcome["missed"] == []
    await again.get(is_delta_of(id), "the words go on")
    await again.get(is_reply_to(id), "the answer")
    assert [frame["seq"] for frame in again.sequenced] == [1]
    await again.close()


async def test_a_cancelled_answer_ends_at_once_and_the_next_question_is_answered(paced_shop: Shop) -> None:
    async with customer(paced_shop.ingresses[0]) as alice:
        id = await alice.say(QUESTION)
        await alice.get(is_delta_of(id), "the first words")
        await alice.send({"type": "cancel", "id": id})
        stopped = await alice.get(lambda frame: frame["type"] == "error" and frame.get("id") == id, "cancelled")
        assert (stopped["code"], stopped["seq"]) == ("cancelled", 1)
        assert (await alice.ask("How long does shipping take?"))["seq"] == 2
        assert [frame["id"] for frame in alice.of_type("reply")] != [id]


async def test_two_windows_on_one_session_both_get_every_reply(ingress: Process) -> None:
    async with customer(ingress) as first:
        async with customer(ingress, first.session_id, first.token) as second:
            ids = [await (first, second)[n % 2].say(f"Message {n}") for n in range(10)]
            for id in ids:
                await first.get(is_reply_to(id), id)
                await second.get(is_reply_to(id), id)
            assert first.of_type("reply") == second.of_type("reply")
            assert [frame["seq"] for frame in first.of_type("reply")] == list(range(1, 11))
        # An old socket that closes must not take the other one's subscription with it.
        assert (await first.ask("Still there?"))["seq"] == 11


async def test_replies_that_were_missed_come_with_the_welcome(ingress: Process, worker: Process) -> None:
    alice = await Customer.join(ingress)
    await alice.ask("One")
    with paused(worker):
        ids = [await alice.say(f"Message {n}") for n in range(5)]
        await alice.get(lambda frame: frame["type"] == "accepted" and frame["id"] == ids[-1], "accepted")
        await alice.close()
    async with customer(ingress, alice.session_id, alice.token) as other_window:
        last = await other_window.ask("The last one")
    again = await alice.rejoin(ingress)
    assert again.welcome["recovered"] is True
    assert [frame["id"] for frame in again.welcome["missed"]] == [*ids, last["id"]]
    assert [frame["seq"] for frame in again.welcome["missed"]] == [2, 3, 4, 5, 6, 7]
    assert again.welcome["seq"] == 7
    assert (await again.ask("And on"))["seq"] == 8
    await again.close()


async def test_another_epoch_is_not_recovered_and_all_of_it_is_missed(ingress: Process) -> None:
    alice = await Customer.join(ingress)
    await alice.ask("One")
    epoch, seq = alice.position
    for resume in ((epoch - 1, 1), (epoch + 1, 9), (epoch, seq + 5)):
        async with customer(ingress, alice.session_id, alice.token, resume) as again:
            assert again.welcome["recovered"] is False, resume
            # Never behind what the client has seen: that would be shown again.
            assert (again.welcome["epoch"], again.welcome["seq"]) == max(resume, (epoch, seq))
    async with customer(ingress, alice.session_id, alice.token, (epoch - 1, 7)) as again:
        assert [frame["seq"] for frame in again.welcome["missed"]] == [1]
    await alice.close()


async def test_a_session_that_was_forgotten_is_not_recovered(pipeline: Pipeline, ingress: Process) -> None:
    alice = await Customer.join(ingress)
    await alice.ask("One")
    await alice.close()
    async with redis.asyncio.Redis.from_url(pipeline.redis_url) as client:
        names = [name async for name in client.scan_iter(f"{pipeline.key_prefix}{{{alice.session_id}}}*")]
        assert await client.delete(*names) == 2
    again = await alice.rejoin(ingress)
    assert (again.welcome["recovered"], again.welcome["missed"]) == (False, [])
    assert (again.welcome["epoch"], again.welcome["seq"]) == alice.position
    # The worker's memory may have it still, and puts it back.
    await again.ask("Two")
    assert again.position > alice.position
    await again.close()


async def test_a_slow_reader_is_told_to_reconnect_and_loses_nothing(ingress: Process) -> None:
    """Its frames are bounded; the other window of the session goes on meanwhile (P)."""
    alice = await Customer.join(ingress)
    slow = await not_reading(ingress, alice)
    for _ in range(MORE_THAN_BUFFERS_HOLD):
        assert (await alice.ask(LONG_TEXT))["type"] == "reply"
    slow.socket.transport.resume_reading()
    assert await slow.closed() == CloseCode.TRY_AGAIN_LATER
    seen = [frame["seq"] for frame in slow.sequenced]
    assert seen == list(range(1, len(seen) + 1))
    missing = list(range(len(seen) + 1, MORE_THAN_BUFFERS_HOLD + 1))
    assert missing, "it was not slow at all"
    again = await slow.rejoin(ingress)
    assert again.welcome["recovered"] is (len(missing) <= RECENT_EVENTS)
    assert [frame["seq"] for frame in again.sequenced] == missing[-RECENT_EVENTS:]
    await again.close()
    await alice.close()


async def test_a_client_that_never_reads_is_let_go(ingress: Process) -> None:
    alice = await Customer.join(ingress)
    before = await asyncio.to_thread(ingress.metric, "supportstream_sockets")
    slow = await not_reading(ingress, alice)
    for _ in range(MORE_THAN_BUFFERS_HOLD):
        await alice.ask(LONG_TEXT)

    async def gone() -> bool:
        return await asyncio.to_thread(ingress.metric, "supportstream_sockets") == before

    await eventually(gone, "the ingress gave up the socket of a client that doesn't read", deadline_s=15)
    slow.socket.transport.abort()
    await alice.close()


async def not_reading(ingress: Process, window: Customer) -> Customer:
    """A second window on the session that takes its welcome and then nothing more."""
    narrow = sockets.socket()
    narrow.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", ingress.port))
    slow = await Customer.join(ingress, window.session_id, window.token, sock=narrow)
    slow.socket.transport.pause_reading()
    return slow


async def test_an_ingress_that_stops_sends_its_customers_elsewhere(pipeline: Pipeline, ingress: Process) -> None:
    leaving = await asyncio.to_thread(lambda: started(pipeline))
    alice = await Customer.join(leaving)
    await alice.ask("One")
    assert await asyncio.to_thread(leaving.server.stop, 20.0) == 0
    assert await alice.closed() == CloseCode.SERVICE_RESTART
    again = await alice.rejoin(ingress)
    assert again.welcome["recovered"] is True
    assert (await again.ask("Two", message_id()))["seq"] == 2
    await again.close()


async def test_the_position_of_a_session_is_what_the_store_has(pipeline: Pipeline, ingress: Process) -> None:
    async with customer(ingress) as alice:
        await alice.ask("One")
        store = session_store(pipeline)
        session = await store.get(alice.session_id)
        await store.close()
        assert session is not None
        assert (session.epoch, session.seq, session.message_count) == (*alice.position, 1)


def started(pipeline: Pipeline) -> Process:
    ingress = pipeline.ingress()
    pipeline.ready()
    return ingress
