"""A record that the consumer itself can't decode must hold up neither its own partition nor any other."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import orjson
import pytest

from tests.customers import Customer, customer
from tests.processes import Pipeline, Process, paused
from tests.topic_records import producer, session_on

PARTITIONS = 12


@pytest.fixture
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline(GENERATOR="null") as pipeline:
        yield pipeline


@dataclass(frozen=True)
class System:
    ingress: Process
    worker: Process


@pytest.fixture
def system(pipeline: Pipeline) -> System:
    system = System(pipeline.ingress(), pipeline.worker())
    pipeline.ready()
    return system


async def test_a_header_that_is_no_utf8_is_a_matter_of_its_own_record(pipeline: Pipeline, system: System) -> None:
    session_id = session_on({4}, PARTITIONS)
    async with producer(pipeline.bootstrap_servers) as client:
        body = orjson.dumps({"text": "With a strange header value"})
        headers = [("charset", b"caf\xe9")]
        await client.send_and_wait(pipeline.topics.inbound, body, session_id.encode(), 4, headers=headers)
    async with customer(system.ingress, session_id) as alice:
        assert alice.welcome["seq"] == 2, "the record, and the claim"
        assert (await alice.ask("And now?"))["type"] == "reply"


async def test_a_header_name_that_is_no_utf8_costs_nobody_an_answer(pipeline: Pipeline, system: System) -> None:
    """Python's and Java's producers write none; librdkafka lets anybody."""
    sessions = [session_on({partition}, PARTITIONS) for partition in range(PARTITIONS)]
    customers = [await Customer.join(system.ingress, session_id) for session_id in sessions]
    # While the worker stands still all of it piles up, and then comes in one batch.
    with paused(system.worker):
        await asyncio.to_thread(publish_with_header, pipeline, 5, sessions[5], b"caf\xe9")
        ids = [await alice.say("Am I held up?") for alice in customers]
        for alice, id in zip(customers, ids, strict=True):
            await alice.get(lambda frame, id=id: frame["type"] == "accepted" and frame["id"] == id, "accepted")  # type: ignore[misc]
    answered = await asyncio.gather(
        *(is_answered(alice, id) for alice, id in zip(customers, ids, strict=True)),
    )
    await asyncio.gather(*(alice.close() for alice in customers))
    unanswered = [partition for partition, is_answered in enumerate(answered) if not is_answered]
    assert not unanswered, f"L: accepted and never answered, by partition: {unanswered}"


async def is_answered(alice: Customer, id: str) -> bool:
    try:
        await alice.get(lambda frame: frame["type"] == "reply" and frame["id"] == id, id, within_s=15)
    except AssertionError:
        return False
    return True


def publish_with_header(pipeline: Pipeline, partition: int, session_id: str, name: bytes) -> None:
    """With kcat, which takes any bytes as a header's name."""
    where = ["-b", pipeline.bootstrap_servers, "-t", pipeline.topics.inbound, "-p", str(partition), "-k", session_id]
    subprocess.run(
        [b"kcat", b"-P", *(part.encode() for part in where), b"-H", name + b"=1"],
        input=b'{"text": "With a strange header"}\n',
        check=True,
        timeout=30,
    )
