"""Odd records on the reply topic, and those of a later version, cost an ingress only themselves."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import orjson
import pytest

from schemas.partition import home_partition
from schemas.replies import encode_reply
from tests.customers import ANSWER_WITHIN_S, Customer, customer, message_id
from tests.polling import eventually
from tests.processes import Pipeline, Process
from tests.topic_records import producer
from tests.unit.schemas.events import answered

PARTITIONS = 12
REFUSED = "supportstream_reply_records_refused_total"


@pytest.fixture(scope="module")
def unanswered(quick_pipeline: Pipeline) -> Iterator[Pipeline]:
    """Topics without a worker: what is on the reply topic, the tests have put there."""
    with Pipeline(
        quick_pipeline.bootstrap_servers, quick_pipeline.redis_url, quick_pipeline.directory, {"GENERATOR": "null"}
    ) as pipeline:
        pipeline.must("topics", "create")
        yield pipeline


@pytest.fixture(scope="module")
def ingress(unanswered: Pipeline) -> Process:
    ingress = unanswered.ingress()
    unanswered.ready()
    return ingress


@asynccontextmanager
async def asked(ingress: Process, alice: Customer, id: str) -> AsyncIterator["asyncio.Task[httpx.Response]"]:
    """A request of the customer's session that waits for its answer, from when Kafka has the message."""
    accepted = await asyncio.to_thread(ingress.metric, "supportstream_inbound_accepted_total")
    async with httpx.AsyncClient(base_url=ingress.url, timeout=ANSWER_WITHIN_S) as client:
        body = {"text": "Hello", "id": id, "session_id": alice.session_id, "wait": 20}
        headers = {"authorization": f"Bearer {alice.token}"}
        waiting = asyncio.create_task(client.post("/api/v1/chat", json=body, headers=headers))

        async def has_it() -> bool:
            return await asyncio.to_thread(ingress.metric, "supportstream_inbound_accepted_total") > accepted

        await eventually(has_it, "the message is accepted")
        try:
            yield waiting
        finally:
            waiting.cancel()


def reply(session_id: str, id: str, seq: int = 1, **fields: object) -> bytes:
    event = answered(seq, inbound_id=id, session_id=session_id)
    return orjson.dumps({**orjson.loads(encode_reply(event)), **fields})


async def test_odd_records_cost_only_themselves(unanswered: Pipeline, ingress: Process) -> None:
    """P: a POST and two sockets wait while another system writes nonsense between the replies."""
    async with customer(ingress) as alice, customer(ingress) as bob:
        id = message_id()
        async with asked(ingress, alice, id) as waiting, producer(unanswered.bootstrap_servers) as raw:

            async def write(session_id: str, value: bytes | None, key: bytes | None = None) -> None:
                partition = home_partition(session_id, PARTITIONS)
                await raw.send_and_wait(unanswered.topics.replies, value, key or session_id.encode(), partition)

            of_alice = [
                b"[1, 2]",
                b"not JSON",
                b"",
                b"\x01",
                reply(alice.session_id, id, epoch="x"),
                reply(alice.session_id, id, seq=1, version="one"),
                reply(bob.session_id, id),
            ]
            for value in of_alice:
                await write(alice.session_id, value)
            await write(alice.session_id, None)
            await write(alice.session_id, b"{}", key=b"\xff\xfe")
            await write(bob.session_id, reply(bob.session_id, "b1"))
            seen = await bob.get(lambda frame: frame["type"] == "reply", "a reply behind the odd records")
            assert seen["id"] == "b1"
            await write(alice.session_id, reply(alice.session_id, id, seq=2))
            response = await waiting
            assert (response.status_code, response.json()["seq"]) == (200, 2)
            await alice.get(lambda frame: frame["type"] == "reply" and frame["seq"] == 2, "the socket has it, too")
    for reason, count in (("unreadable", 4), ("key_mismatch", 1), ("invalid_event", 1)):
        refused = await asyncio.to_thread(ingress.metric, REFUSED, reason=reason)
        assert refused == count, reason
    health = await asyncio.to_thread(ingress.health)
    assert (health["checks"]["reply_reader"], health["checks"]["replies"]) == ("ok", "ok")
    told = [orjson.loads(line) for line in ingress.server.log_path.read_text().splitlines() if "record_refused" in line]
    assert len(told) == 6
    assert all(entry["topic"] == unanswered.topics.replies for entry in told)
    assert len({(entry["partition"], entry["offset"]) for entry in told}) == 6


async def test_while_workers_are_upgraded_before_an_ingress_everybody_is_served(
    unanswered: Pipeline, ingress: Process
) -> None:
    """P: an event of a later version, for a session with a waiting POST and an open socket."""
    async with customer(ingress) as alice, customer(ingress) as bob:
        id = message_id()
        async with asked(ingress, alice, id) as waiting, producer(unanswered.bootstrap_servers) as upgraded:

            async def write(session_id: str, value: bytes) -> None:
                partition = home_partition(session_id, PARTITIONS)
                await upgraded.send_and_wait(unanswered.topics.replies, value, session_id.encode(), partition)

            await write(alice.session_id, reply(alice.session_id, id, schema_version=99, mood="sunny"))
            response = await waiting
            assert (response.status_code, response.json()["error"]) == (502, "answer_unreadable")
            assert response.headers["retry-after"]
            shown = await alice.get(lambda frame: frame["type"] == "reply", "the socket is shown what can be read")
            assert (shown["id"], shown["seq"]) == (id, 1)
            await write(bob.session_id, reply(bob.session_id, "b1"))
            await bob.get(lambda frame: frame["type"] == "reply", "other customers are served")
            await write(alice.session_id, reply(alice.session_id, "a2", seq=2))
            await alice.get(lambda frame: frame.get("seq") == 2, "so is the same one")
    assert await asyncio.to_thread(ingress.metric, REFUSED, reason="newer_schema") == 1
