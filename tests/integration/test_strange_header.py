"""A record that the consumer itself can't decode must hold up neither its own partition nor any other."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator

import orjson
import pytest

from tests.customers import customer
from tests.processes import Pipeline, Process
from tests.topic_records import producer, session_on

PARTITIONS = 12


@pytest.fixture
def pipeline(new_pipeline: Callable[..., Pipeline]) -> Iterator[Pipeline]:
    with new_pipeline(GENERATOR="null") as pipeline:
        yield pipeline


@pytest.fixture
def ingress(pipeline: Pipeline) -> Process:
    ingress = pipeline.ingress()
    pipeline.worker()
    pipeline.ready()
    return ingress


async def test_a_header_that_is_no_utf8_is_a_matter_of_its_own_record(pipeline: Pipeline, ingress: Process) -> None:
    session_id = session_on({4}, PARTITIONS)
    async with producer(pipeline.bootstrap_servers) as client:
        body = orjson.dumps({"text": "With a strange header value"})
        headers = [("charset", b"caf\xe9")]
        await client.send_and_wait(pipeline.topics.inbound, body, session_id.encode(), 4, headers=headers)
    async with customer(ingress, session_id) as alice:
        assert alice.welcome["seq"] == 2, "the record, and the claim"
        assert (await alice.ask("And now?"))["type"] == "reply"


async def test_a_header_name_that_is_no_utf8_holds_nobody_up(pipeline: Pipeline, ingress: Process) -> None:
    """Python's and Java's producers write none; librdkafka lets anybody."""
    session_id = session_on({5}, PARTITIONS)
    await asyncio.to_thread(publish_with_header, pipeline, 5, session_id, b"caf\xe9")
    async with customer(ingress) as bystander:
        assert (await bystander.ask("Am I held up?"))["type"] == "reply"
    async with customer(ingress, session_id) as alice:
        assert (await alice.ask("And now?"))["type"] == "reply"


def publish_with_header(pipeline: Pipeline, partition: int, session_id: str, name: bytes) -> None:
    """With kcat, which takes any bytes as a header's name."""
    where = ["-b", pipeline.bootstrap_servers, "-t", pipeline.topics.inbound, "-p", str(partition), "-k", session_id]
    subprocess.run(
        [b"kcat", b"-P", *(part.encode() for part in where), b"-H", name + b"=1"],
        input=b'{"text": "With a strange header"}\n',
        check=True,
        timeout=30,
    )
